package wire

import (
	"encoding/json"
	"fmt"
)

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
