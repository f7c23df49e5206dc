package evaluate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// chat speaks the one call of OpenAI's API that a judge needs, POST /chat/completions without streaming, as everybody
// who is compatible with it does. The official library stands in the way of building this: see ADR 14.
type chat struct {
	address string
	key     string // empty: none is sent
	newName bool   // the endpoint calls the bound on output max_completion_tokens
	client  *http.Client
}

func newChat(base *url.URL, key string, concurrency int) chat {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = concurrency
	return chat{
		address: strings.TrimSuffix(base.String(), "/") + "/chat/completions", key: key,
		// Compatible endpoints know the older name; OpenAI's own models that reason know only the newer.
		newName: base.Hostname() == "api.openai.com" || strings.HasSuffix(base.Hostname(), ".openai.azure.com"),
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // texts and keys go nowhere else
		},
	}
}

// chatRequest is the body of a request.
type chatRequest struct {
	Model               string        `json:"model"`
	Messages            []chatMessage `json:"messages"`
	Temperature         *float64      `json:"temperature,omitempty"`
	MaxTokens           int64         `json:"max_tokens,omitempty"`
	MaxCompletionTokens int64         `json:"max_completion_tokens,omitempty"`
	Format              struct {
		Type   string      `json:"type"`
		Schema *chatSchema `json:"json_schema,omitempty"`
	} `json:"response_format"`
}

type chatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type chatSchema struct {
	Name   string         `json:"name"`
	Strict bool           `json:"strict"`
	Schema map[string]any `json:"schema"`
}

// completion is an answer, as far as it is looked at.
type completion struct {
	Model   string `json:"model"`
	Choices []struct {
		FinishReason string `json:"finish_reason"`
		Message      struct {
			Content string `json:"content"`
			Refusal string `json:"refusal"`
		} `json:"message"`
	} `json:"choices"`
	Usage json.RawMessage `json:"usage"`
}

// chatError is a refusal. It keeps the status and not the words: endpoints repeat in them what they were sent.
type chatError struct {
	status     int
	retryAfter string
}

func (e *chatError) Error() string { return fmt.Sprintf("status %d", e.status) }

// maxResponse bounds what an endpoint may answer, in bytes.
const maxResponse = 1 << 20

var errResponse = errors.New("the answer is no chat completion")

// complete asks once.
func (c chat) complete(ctx context.Context, body chatRequest) (*completion, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	if c.key != "" {
		request.Header.Set("Authorization", "Bearer "+c.key)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	limited := io.LimitReader(response.Body, maxResponse)
	if response.StatusCode != http.StatusOK {
		_, _ = io.Copy(io.Discard, limited) // the connection can be used again
		return nil, &chatError{response.StatusCode, response.Header.Get("Retry-After")}
	}
	var answer completion
	if err := json.NewDecoder(limited).Decode(&answer); err != nil {
		return nil, errResponse // not the decoder's own words, which may quote
	}
	return &answer, nil
}
