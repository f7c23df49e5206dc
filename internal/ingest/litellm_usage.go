package ingest

import "github.com/flyball-dev/flyball/internal/usage"

// litellmUsage reads LiteLLM's own usage object, into which it puts every provider's: prompt_tokens includes what
// was read from and written to the cache, Anthropic's too, and completion_tokens the reasoning. The same
// number may stand in two places.
type litellmUsage struct {
	cursor
	normal                       bool // has LiteLLM's names
	prompt, completion           int64
	completed                    bool // the output is known
	total                        int64
	cached, written              int64
	written5m, written1h         int64
	split                        bool // the writes are given by their time to live
	reasoning, audioIn, audioOut int64
	tier                         string
}

func (u *litellmUsage) read() error {
	return u.object(func(name []byte) (err error) {
		switch string(name) {
		case "prompt_tokens":
			u.normal = !u.isNull()
			return u.count(&u.prompt)
		case "completion_tokens":
			u.completed = !u.isNull()
			return u.count(&u.completion)
		case "total_tokens":
			return u.count(&u.total)
		case "prompt_tokens_details":
			return u.within(u.promptDetail)
		case "completion_tokens_details":
			return u.within(u.completionDetail)
		case "cache_read_input_tokens", "prompt_cache_hit_tokens":
			return u.most(&u.cached)
		case "cache_creation_input_tokens":
			return u.most(&u.written)
		case "cache_creation":
			return u.within(u.ttl)
		case "service_tier":
			if u.peek() == '"' {
				text, err := u.name()
				u.tier = string(text)
				return err
			}
		}
		return u.other()
	})
}

func (u *litellmUsage) promptDetail(name []byte) error {
	switch string(name) {
	case "cached_tokens":
		return u.most(&u.cached)
	case "cache_creation_tokens", "cache_write_tokens":
		return u.most(&u.written)
	case "cache_creation_token_details":
		return u.within(u.ttl)
	case "audio_tokens":
		return u.most(&u.audioIn)
	}
	return u.other()
}

func (u *litellmUsage) ttl(name []byte) error {
	switch string(name) {
	case "ephemeral_5m_input_tokens":
		u.split = u.split || !u.isNull()
		return u.most(&u.written5m)
	case "ephemeral_1h_input_tokens":
		u.split = u.split || !u.isNull()
		return u.most(&u.written1h)
	}
	return u.other()
}

func (u *litellmUsage) completionDetail(name []byte) error {
	switch string(name) {
	case "reasoning_tokens":
		return u.most(&u.reasoning)
	case "audio_tokens":
		return u.most(&u.audioOut)
	}
	return u.other()
}

// buckets are the tokens in disjoint buckets, or false when the numbers do not fit together.
func (u *litellmUsage) buckets() (usage.Tokens, bool) {
	t := usage.Tokens{CacheRead: u.cached, CacheWrite5m: u.written, Output: u.completion, Reasoning: u.reasoning}
	if u.split {
		t.CacheWrite5m, t.CacheWrite1h = u.written5m, u.written1h
		if u.written > 0 && u.written5m+u.written1h != u.written {
			return usage.Tokens{}, false
		}
	}
	t.UncachedInput = u.prompt - t.CacheRead - t.CacheWrite5m - t.CacheWrite1h
	return t, t.Validate() == nil
}

// complete reports whether every token has a bucket: audio has none, embeddings have no output.
func (u *litellmUsage) complete() bool {
	return u.audioIn == 0 && u.audioOut == 0 && (u.completed || u.total == u.prompt && u.total > 0)
}

func (u *litellmUsage) isNull() bool { return u.peek() == 'n' }

func (u *litellmUsage) count(into *int64) (err error) {
	*into, err = u.integer(usage.MaxTokens)
	return err
}

func (u *litellmUsage) most(into *int64) error {
	n, err := u.integer(usage.MaxTokens)
	*into = max(*into, n)
	return err
}

func (u *litellmUsage) within(field func(name []byte) error) error {
	if u.peek() != '{' {
		return u.other()
	}
	return u.object(field)
}

func (u *litellmUsage) other() error {
	_, err := u.skip()
	return err
}
