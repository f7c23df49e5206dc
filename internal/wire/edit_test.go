package wire

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestApplyWithoutAnEditIsTheBodyItself(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		api := rapid.SampledFrom(taking).Draw(t, "api")
		text := []byte(body(t, api))
		r, err := Read(api, text)
		require.NoError(t, err)
		same := r.Apply(Edit{})
		require.Equal(t, string(text), string(same))
		require.Same(t, &text[0], &same[0])
		if !reasons(r.Model) { // whose caps may be renamed
			require.Same(t, &text[0], &r.Apply(Edit{Model: r.Model})[0], "the model that was asked for is no change")
		}
	})
}

func edit(t *rapid.T) Edit {
	return Edit{
		Model:        rapid.SampledFrom([]string{"", "gpt-4o-mini", "gpt-5-mini", "a\"b\\é"}).Draw(t, "to"),
		IncludeUsage: rapid.Bool().Draw(t, "include"),
		MaxOutput:    rapid.SampledFrom([]int64{0, 1, 100, 1 << 20}).Draw(t, "most"),
		LegacyCap:    rapid.Bool().Draw(t, "legacy"),
	}
}

// After any edit the body says what was asked, and differs from the client's in nothing else, to the byte.
func TestApplyChangesNothingElse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		api := rapid.SampledFrom(taking).Draw(t, "api")
		before := body(t, api)
		r, err := Read(api, []byte(before))
		require.NoError(t, err)
		e := edit(t)
		after := string(r.Apply(e))
		got, err := Read(api, []byte(after))
		require.NoError(t, err, "%s\n%s", before, after)
		says(t, r, got, e)
		differs(t, api, before, after, e)
	})
}

// says checks that a body that was changed says what was asked.
func says(t require.TestingT, r, got *Request, e Edit) {
	want := r.Model
	if e.Model != "" {
		want = e.Model
	}
	require.Equal(t, want, got.Model)
	require.Equal(t, r.IncludeUsage || e.IncludeUsage && r.API == Chat && r.Stream, got.IncludeUsage)
	most := r.MaxOutput
	nothing := r.API == Messages && r.spots.caps[0].said && most == 0 // was asked for
	if r.API.Generates() && e.MaxOutput > 0 && (most == 0 && !nothing || most > e.MaxOutput) {
		most = e.MaxOutput
	}
	require.Equal(t, most, got.MaxOutput)
	require.Equal(t, r.Stream, got.Stream)
	require.Equal(t, r.Choices, got.Choices)
	require.Equal(t, r.Text, got.Text)
	require.Equal(t, r.User, got.User)
}

// differs checks member by member that only those changed that an edit may change.
func differs(t require.TestingT, api API, before, after string, e Edit) {
	old, oldEnd := members(t, before)
	now, nowEnd := members(t, after)
	require.Equal(t, oldEnd, nowEnd)
	added := len(now) - len(old)
	require.GreaterOrEqual(t, added, 0, "nothing is taken out")
	for _, m := range now[:added] {
		require.Contains(t, []string{"stream_options", capNameOf(api, e)}, m.name)
	}
	for i, m := range now[added:] {
		was := old[i]
		switch {
		case m.text == was.text && m.name == was.name:
		case m.name == "model" && was.name == "model":
			require.Equal(t, was.key, m.key)
		case m.name == "stream_options" && was.name == "stream_options":
			require.Equal(t, was.key, m.key)
			optionsDiffer(t, was.value, m.value)
		case isCap(api, m.name) && isCap(api, was.name):
			capDiffers(t, was, m, e)
		default:
			require.Equal(t, was, m, "%s\n%s", before, after)
		}
	}
}

func capNameOf(api API, e Edit) string {
	return (&Request{API: api}).capName(e)
}

// capDiffers checks a cap that was lowered or has another name now.
func capDiffers(t require.TestingT, was, now raw, e Edit) {
	if was.value != now.value {
		require.Equal(t, strconv.FormatInt(e.MaxOutput, 10), now.value)
	}
	if was.name == now.name {
		require.Equal(t, was.key, now.key)
		return
	}
	if e.LegacyCap {
		require.Equal(t, "max_tokens", now.name)
		return
	}
	require.Equal(t, "max_completion_tokens", now.name)
	require.True(t, reasons(e.Model))
}

func optionsDiffer(t require.TestingT, before, after string) {
	if before == "null" {
		require.JSONEq(t, `{"include_usage":true}`, after)
		return
	}
	old, _ := members(t, before)
	now, _ := members(t, after)
	added := len(now) - len(old)
	for i, m := range now {
		if m.name == "include_usage" {
			require.Equal(t, "true", m.value)
			continue
		}
		require.Equal(t, old[i-added].value, m.value)
		require.Equal(t, old[i-added].text, m.text)
	}
}

// A field that is there twice, however its second name is spelled, gets no body past Read: the upstream could believe
// the one that was not read.
func TestNothingIsSmuggledPastRead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		api := rapid.SampledFrom(taking).Draw(t, "api")
		all, end := members(t, strings.TrimSpace(body(t, api)))
		var there []raw
		for _, m := range all {
			if _, ok := known[api][m.name]; ok {
				there = append(there, m)
			}
		}
		m := rapid.SampledFrom(there).Draw(t, "field")
		name := []byte(m.name)
		for i := range name {
			if name[i] != '_' && rapid.IntRange(0, 4).Draw(t, "upper") == 0 {
				name[i] &^= 'a' - 'A'
			}
		}
		smuggled := member(t, string(name), m.value)
		at := rapid.IntRange(0, len(all)).Draw(t, "at")
		var texts []string
		for i, m := range all {
			if i == at {
				texts = append(texts, smuggled)
			}
			texts = append(texts, m.text)
		}
		if at == len(all) {
			texts = append(texts, smuggled)
		}
		text := "{" + strings.Join(texts, ",") + end
		_, err := Read(api, []byte(text))
		require.Error(t, err, text)
		var refused *Error
		require.ErrorAs(t, err, &refused, text)
		require.Equal(t, m.name, refused.Field, text)
	})
}

func TestCapsGoWhereTheUpstreamReadsThem(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		api  API
		body string
		edit Edit
		want string
	}{
		{"chat without a cap", Chat, `{"model":"gpt-4o"}`, Edit{MaxOutput: 9}, `{"max_completion_tokens":9,"model":"gpt-4o"}`},
		{"an upstream that knows the old name", Chat, `{"model":"llama"}`, Edit{MaxOutput: 9, LegacyCap: true}, `{"max_tokens":9,"model":"llama"}`},
		{"and a client that does not", Chat, `{"max_completion_tokens":5,"model":"m"}`, Edit{LegacyCap: true}, `{"max_tokens":5,"model":"m"}`},
		{"a client's null", Chat, `{"model":"gpt-4o","max_tokens":null}`, Edit{MaxOutput: 9}, `{"model":"gpt-4o","max_tokens":9}`},
		{"a client's smaller cap", Messages, `{"model":"c","max_tokens":5}`, Edit{MaxOutput: 9}, `{"model":"c","max_tokens":5}`},
		{"a client's greater cap", Messages, `{"model":"c","max_tokens":50}`, Edit{MaxOutput: 9}, `{"model":"c","max_tokens":9}`},
		{"both caps", Chat, `{"max_tokens":50,"model":"m","max_completion_tokens":60}`, Edit{MaxOutput: 9}, `{"max_tokens":9,"model":"m","max_completion_tokens":9}`},
		{"a model that refuses the old name", Chat, `{"model":"gpt-4o","max_tokens":5}`, Edit{Model: "gpt-5"}, `{"model":"gpt-5","max_completion_tokens":5}`},
		{"a response", Responses, `{"model":"gpt-4o"}`, Edit{MaxOutput: 9, IncludeUsage: true}, `{"max_output_tokens":9,"model":"gpt-4o"}`},
		{"a message asked to generate nothing", Messages, `{"model":"c","max_tokens":0}`, Edit{MaxOutput: 9}, `{"model":"c","max_tokens":0}`},
		{"embeddings have no cap", Embeddings, `{"model":"e","input":"x"}`, Edit{MaxOutput: 9}, `{"model":"e","input":"x"}`},
		{"usage of a stream", Chat, `{"model":"m","stream":true}`, Edit{IncludeUsage: true}, `{"stream_options":{"include_usage":true},"model":"m","stream":true}`},
		{"usage in empty options", Chat, `{"model":"m","stream":true,"stream_options":{ }}`, Edit{IncludeUsage: true}, `{"model":"m","stream":true,"stream_options":{"include_usage":true }}`},
		{"an escaped key keeps its spelling", Chat, `{"mod\u0065l":"m"}`, Edit{Model: "n"}, `{"mod\u0065l":"n"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.want, string(read(t, tc.api, tc.body).Apply(tc.edit)))
		})
	}
	_, err := Read(Chat, []byte(`{"model":"m","max_tokens":0}`))
	require.ErrorContains(t, err, "from 1", "some servers take it for no cap")
}
