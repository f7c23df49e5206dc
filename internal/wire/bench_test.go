package wire

import (
	"strings"
	"testing"
)

func BenchmarkRead(b *testing.B) {
	body := []byte(`{"model":"gpt-4o","stream":true,"max_tokens":300,"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"` +
		strings.Repeat("what the governor holds\\n", 160) + `"}]}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(Chat, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	body := []byte(`{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"` + strings.Repeat("what the governor holds ", 160) + `"}]}`)
	r, err := Read(Chat, body)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Apply(Edit{Model: "gpt-4o-mini", IncludeUsage: true, MaxOutput: 1024})
	}
}

// BenchmarkPass passes one event on.
func BenchmarkPass(b *testing.B) {
	for _, bench := range []struct {
		api   API
		event string
	}{
		{Chat, `data: {"id":"chatcmpl-0000000000000000000001","object":"chat.completion.chunk","created":1764115200,"model":"gpt-4o","service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{"index":0,"delta":{"content":" governor"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n"},
		{Responses, "event: response.output_text.delta\n" + `data: {"type":"response.output_text.delta","content_index":0,"item_id":"msg_0000000000000000000001","output_index":0,"delta":" governor","logprobs":[],"obfuscation":"abcdefgh","sequence_number":7}` + "\n\n"},
		{Messages, "event: content_block_delta\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" governor"}}` + "\n\n"},
	} {
		b.Run(string(bench.api), func(b *testing.B) {
			r := NewRelay(bench.api, true, nil)
			event, out := []byte(bench.event), []byte(nil)
			b.SetBytes(int64(len(event)))
			b.ReportAllocs()
			for b.Loop() {
				out = r.Pass(out[:0], event)
			}
		})
	}
}
