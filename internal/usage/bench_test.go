package usage

import "testing"

// BenchmarkStream reads one event of a stream, which says nothing of usage.
func BenchmarkStream(b *testing.B) {
	for provider, event := range map[string]string{
		"openai":    `data: {"id":"chatcmpl-0000000000000000000001","object":"chat.completion.chunk","created":1764115200,"model":"gpt-4o","service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{"index":0,"delta":{"content":" governor"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n",
		"anthropic": "event: content_block_delta\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" governor"}}` + "\n\n",
	} {
		b.Run(provider, func(b *testing.B) {
			s, err := NewStream(provider)
			if err != nil {
				b.Fatal(err)
			}
			text := []byte(event)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = s.Write(text)
			}
		})
	}
}
