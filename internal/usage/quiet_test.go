package usage

import "testing"

// FuzzQuiet: what is passed over says nothing to who reads the whole of it.
func FuzzQuiet(f *testing.F) {
	const known = `"model":"gpt-4o","service_tier":"default","usage":null`
	for _, event := range []string{
		`{}`,
		`{` + known + `,"choices":[{"index":0,"delta":{"content":"\"finish_reason\":\"stop\""},"logprobs":null,"finish_reason":null}]}`,
		`{` + known + `,"choices":[{"delta":{},"finish_reason":"stop"}]}`,
		`{` + known + `,"choices":[{"delta":{},"FINISH_reason":"stop"}]}`,
		`{` + known + `,"choices":[{"delta":{}},{"finish\u005freason":"stop"}]}`,
		`{` + known + `,"choices":[],"u` + "\u017f" + `age":{"prompt_tokens":3,"completion_tokens":1}}`,
		`{` + known + `,"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}`,
		`{"a":{"b":["]}\\",{"usage":1}]},"Model":"x","choices":null}`,
		`{"type":"response.output_text.delta","delta":"}","response":null}`,
		`{"type":"response.completed","response":{"model":"gpt-4o","service_tier":"flex","usage":{"input_tokens":3,"output_tokens":1}}}`,
		`{"x_groq":{"usage":{"prompt_tokens":3,"completion_tokens":1}}, "choices" : [ {"finish_reason" : "" } , null ]}`,
		`{"model":null,"service_tier":null,"choices":[{"finish_reason":nul}]}`,
		`{"model":"gpt-4o"}}`, `{"a":]}`, `{"a":"`, `{"a"`, `{"model":1,"model":"gpt-5"}`, `[{}]`, `{"service_tier":"DEFAULT","model":""}`,
	} {
		for state := range uint8(16) {
			f.Add(event, "gpt-4o", "", state)
			f.Add(event, "", "flex", state)
		}
	}
	f.Fuzz(func(t *testing.T, event, model, tier string, state uint8) {
		r := Report{Model: model, ServiceTier: ServiceTier(tier), Complete: state&1 != 0, Tokens: Tokens{UncachedInput: 1}}
		acc := accumulator{finished: state&2 != 0, exact: state&4 != 0}
		before, was := r, acc
		if !quiet(&r, &acc, []byte(event)) {
			return
		}
		if readOpenAIEvent(&r, &acc, []byte(event), openAIUsage); r != before || acc.finished != was.finished || acc.exact != was.exact {
			t.Fatalf("%s was passed over, and says %+v %+v instead of %+v %+v", event, r, acc, before, was)
		}
	})
}

// An ordinary event is passed over: without that, the test above has nothing to find.
func TestQuietPassesOver(t *testing.T) {
	r, acc := Report{Model: "gpt-4o"}, accumulator{}
	for event, want := range map[string]bool{
		`{"id":"c","model":"gpt-4o","service_tier":"default","choices":[{"index":0,"delta":{"content":"ü \"}] "},"logprobs":null,"finish_reason":null}],"usage":null}`: true,
		`{"type":"response.output_text.delta","sequence_number":5,"item_id":"m","delta":" governor","logprobs":[]}`:                                                    true,
		`{"model":"gpt-4o","choices":[{"finish_reason":"stop"}]}`:                                                                                                      false,
		`{"model":"gpt-5","choices":[]}`: false,
		`{"usage":{}}`:                   false,
		`{"Usage":null}`:                 false,
	} {
		if got := quiet(&r, &acc, []byte(event)); got != want {
			t.Errorf("%s: %v", event, got)
		}
	}
	event := []byte(`{"model":"gpt-4o","choices":[{"delta":{"content":"x"},"finish_reason":null}],"usage":null}`)
	if n := testing.AllocsPerRun(100, func() { openAIEvent(&r, &acc, event) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
