package wire

import (
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

var bodySeeds = []string{
	`{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":false},"max_tokens":null,"n":2,"messages":[{"role":"user","content":"hi"}]}`,
	`{"model":"m","max_tokens":5,"max_completion_tokens":7,"messages":[{"role":"user","content":[{"type":"text","text":"é"},{"type":"image_url","image_url":{"url":"data:,","detail":"low"}}]}],"tools":[{"type":"function","function":{"name":"f","parameters":{"enum":[1e20]}}}]}`,
	`{"mod\u0065l":"\ud83d\ude00\ud800","stream":true,"stream_options":{ },"user":"u","x":[{"model":"y"}]}`,
	`{"model":"c","max_tokens":0,"system":[],"thinking":{"type":"enabled"},"metadata":{"user_id":"u"},"messages":[{"role":"user","content":[{"type":"document","source":{"type":"text","data":"x"}}]}]}`,
	`{"model":"o3","input":[{"type":"item_reference"},{"role":"user","content":"x"}],"previous_response_id":"r","max_output_tokens":1,"background":true}`,
	`{"model":"e","input":[[1,2],[3]]}`, `{"Model":"a"}`, `{"model":"a","model":"b"}`, `{"model":"a","stream_options":null,"stream":true} `,
}

func api(i uint8) API { return taking[int(i)%len(taking)] }

func FuzzRead(f *testing.F) {
	for i := range taking {
		for _, seed := range bodySeeds {
			f.Add(uint8(i), []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, i uint8, body []byte) {
		r, err := Read(api(i), body)
		if err != nil {
			var e *Error
			require.ErrorAs(t, err, &e)
			require.True(t, 0 <= e.Offset && e.Offset <= len(body), err)
			require.NotEmpty(t, e.Problem)
			require.NotEmpty(t, e.Mend)
			return
		}
		require.True(t, json.Valid(body), "the standard library takes it too")
		var loose struct { // as servers read it that look past case
			Model  string `json:"model"`
			Stream *bool  `json:"stream"`
		}
		var strict map[string]any
		require.NoError(t, json.Unmarshal(body, &strict))
		require.Equal(t, strict["model"], r.Model)
		if r.API.Generates() {
			require.NoError(t, json.Unmarshal(body, &loose))
			require.Equal(t, loose.Model, r.Model)
			require.Equal(t, loose.Stream != nil && *loose.Stream, r.Stream)
		}
		require.True(t, utf8.ValidString(r.Text+r.User+r.Session))
		require.LessOrEqual(t, len(r.Text), maxText)
		require.True(t, 0 <= r.InputEstimate && r.InputEstimate <= r.InputBound, "%d, %d", r.InputEstimate, r.InputBound)
	})
}

func FuzzApply(f *testing.F) {
	for i := range taking {
		for _, seed := range bodySeeds {
			f.Add(uint8(i), []byte(seed), "gpt-5", true, int64(3), i%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, i uint8, body []byte, model string, include bool, most int64, legacy bool) {
		r, err := Read(api(i), body)
		if err != nil || !utf8.ValidString(model) || len(plainly(model)) > maxName || most > maxInteger {
			return
		}
		e := Edit{Model: model, IncludeUsage: include, MaxOutput: most, LegacyCap: legacy}
		after := r.Apply(e)
		got, err := Read(api(i), after)
		require.NoError(t, err, string(after))
		says(t, r, got, e)
		differs(t, r.API, string(body), string(after), e)
	})
}

func FuzzRelay(f *testing.F) {
	for i, api := range taking[:3] {
		f.Add(uint8(i), map[API]string{Chat: chatStream, Messages: messagesStream, Responses: responsesStream}[api], 7, true)
	}
	f.Add(uint8(0), "data: {\"choices\":[],\"usage\":{}}\r\n\r\n\n\ndata:[DONE]", 3, true)
	f.Add(uint8(1), "event:error\n\r\n: c\ndata: {\"delta\":\"\\ud83d\\ude00\"}\n\n", 9, false)
	f.Fuzz(func(t *testing.T, i uint8, stream string, at int, drop bool) {
		at = max(0, min(at, len(stream)))
		r := NewRelay(api(i), drop, func() string { return "last" })
		whole := r.Pass(nil, []byte(stream))
		whole = r.Rest(whole)
		cut := NewRelay(api(i), drop, func() string { return "last" })
		pieces := cut.Pass(nil, []byte(stream[:at]))
		pieces = cut.Pass(pieces, []byte(stream[at:]))
		pieces = cut.Rest(pieces)
		require.Equal(t, string(whole), string(pieces))
		require.Equal(t, []any{r.Terminal(), r.Text(), r.Hidden()}, []any{cut.Terminal(), cut.Text(), cut.Hidden()})
		require.LessOrEqual(t, r.Text(), int64(2*len(stream)), "escapes do not grow")
		faithful := NewRelay(api(i), false, nil)
		require.Equal(t, stream, string(faithful.Rest(faithful.Pass(nil, []byte(stream)))))
	})
}
