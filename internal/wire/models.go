package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// Model is a model that a gateway offers of its own accord.
type Model struct {
	ID      string
	Name    string    // for people; Anthropic only, the id where it is empty
	Owner   string    // OpenAI only
	Created time.Time // zero: unknown
}

// ListModels is the body of a list of models.
func ListModels(family Family, models []Model) []byte {
	entries := make([]json.RawMessage, len(models))
	for i, m := range models {
		if family == Anthropic {
			name := m.Name
			if name == "" {
				name = m.ID
			}
			entries[i] = marshal(struct {
				Type      string    `json:"type"`
				ID        string    `json:"id"`
				Name      string    `json:"display_name"`
				CreatedAt time.Time `json:"created_at"`
			}{"model", m.ID, name, m.Created.UTC()})
			continue
		}
		entries[i] = marshal(struct {
			ID      string `json:"id"`
			Object  string `json:"object"`
			Created int64  `json:"created"`
			Owner   string `json:"owned_by"`
		}{m.ID, "model", max(m.Created.Unix(), 0), m.Owner})
	}
	return list(family, entries)
}

// MergeModels makes one list of those that several upstreams of a family gave. Of a model that several have, the first
// one's entry stays, byte for byte.
func MergeModels(family Family, lists ...[]byte) ([]byte, error) {
	merged, seen := []json.RawMessage{}, map[string]bool{}
	for i, body := range lists {
		var models struct {
			Data []json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(body, &models); err != nil {
			return nil, fmt.Errorf("reading list %d of models: %w", i, err)
		}
		for _, entry := range models.Data {
			if id := modelID(entry); id != "" && !seen[id] {
				seen[id] = true
				merged = append(merged, entry)
			}
		}
	}
	return list(family, merged), nil
}

func modelID(entry json.RawMessage) string {
	var m struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(entry, &m) != nil {
		return ""
	}
	return m.ID
}

// list writes a list's entries as the family does. Anthropic's is paged: ours is one page.
func list(family Family, entries []json.RawMessage) []byte {
	if family != Anthropic {
		return marshal(struct {
			Object string            `json:"object"`
			Data   []json.RawMessage `json:"data"`
		}{"list", entries})
	}
	page := struct {
		Data    []json.RawMessage `json:"data"`
		HasMore bool              `json:"has_more"`
		First   *string           `json:"first_id"`
		Last    *string           `json:"last_id"`
	}{Data: entries}
	if n := len(entries); n > 0 {
		first, last := modelID(entries[0]), modelID(entries[n-1])
		page.First, page.Last = &first, &last
	}
	return marshal(page)
}
