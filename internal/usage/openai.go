package usage

import "encoding/json"

// OpenAI's chat completions count prompt and completion, its responses input and output; in both the
// first includes what was read from and written to the cache, and the second includes reasoning. Many
// providers speak this shape, each with its own additions.
type openAICounts struct {
	Prompt            count         `json:"prompt_tokens"`
	Completion        count         `json:"completion_tokens"`
	Total             count         `json:"total_tokens"`
	PromptDetails     openAIDetails `json:"prompt_tokens_details"`
	CompletionDetails openAIDetails `json:"completion_tokens_details"`

	Input         count         `json:"input_tokens"`
	Output        count         `json:"output_tokens"`
	InputDetails  openAIDetails `json:"input_tokens_details"`
	OutputDetails openAIDetails `json:"output_tokens_details"`

	// Anthropic's names: here they mean that the object is not OpenAI's, and that its input leaves
	// the cached tokens out.
	ForeignRead  json.RawMessage `json:"cache_read_input_tokens"`
	ForeignWrite json.RawMessage `json:"cache_creation_input_tokens"`
	// The names that transcription and realtime sessions have for details that are not understood.
	ForeignInput  json.RawMessage `json:"input_token_details"`
	ForeignOutput json.RawMessage `json:"output_token_details"`
}

type openAIDetails struct {
	Cached     count `json:"cached_tokens"`
	CacheWrite count `json:"cache_write_tokens"`
	Reasoning  count `json:"reasoning_tokens"`
	Audio      count `json:"audio_tokens"` // priced apart from text, like images, and without a bucket here
	Image      count `json:"image_tokens"`
}

// openAISide is the input or the output of a call, by either of its names.
type openAISide struct {
	count
	details openAIDetails
}

func (u *openAICounts) sides() (in, out openAISide) {
	if u.Prompt.set {
		in, out = openAISide{u.Prompt, u.PromptDetails}, openAISide{u.Completion, u.CompletionDetails}
	} else {
		in, out = openAISide{u.Input, u.InputDetails}, openAISide{u.Output, u.OutputDetails}
	}
	if !out.set && u.Total.set && u.Total.n == in.n {
		out.set = true // embeddings have no output
	}
	return in, out
}

// readOpenAI reads the counts of a usage object in OpenAI's shape. It reports false for another shape.
func readOpenAI(object json.RawMessage) (u openAICounts, ok bool) {
	err := json.Unmarshal(object, &u)
	return u, err == nil && u.ForeignRead == nil && u.ForeignWrite == nil && u.ForeignInput == nil && u.ForeignOutput == nil
}

func openAIUsage(r *Report, object json.RawMessage) {
	u, ok := readOpenAI(object)
	u.report(r, ok)
}

// report fills in the buckets, or none where the object was not understood. Counts that do not make up the
// total, or that include something dearer or cheaper than text, are a lower bound.
func (u *openAICounts) report(r *Report, understood bool) {
	r.Tokens, r.Complete = Tokens{}, false
	in, out := u.sides()
	tokens := Tokens{
		UncachedInput: in.n - in.details.Cached.n - in.details.CacheWrite.n,
		CacheRead:     in.details.Cached.n,
		CacheWrite5m:  in.details.CacheWrite.n,
		Output:        out.n,
		Reasoning:     out.details.Reasoning.n,
	}
	if !understood || !in.set || !out.set || tokens.Validate() != nil {
		return
	}
	r.Tokens = tokens
	other := in.details.Audio.n + in.details.Image.n + out.details.Audio.n + out.details.Image.n
	r.Complete = other == 0 && (!u.Total.set || u.Total.n == in.n+out.n)
}

// deepSeekUsage also splits the prompt into hits and misses of the cache, which must make it up.
func deepSeekUsage(r *Report, object json.RawMessage) {
	u, ok := readOpenAI(object)
	var split struct {
		Hit  count `json:"prompt_cache_hit_tokens"`
		Miss count `json:"prompt_cache_miss_tokens"`
	}
	if ok = ok && json.Unmarshal(object, &split) == nil; ok && (split.Hit.set || split.Miss.set) {
		cached := &u.PromptDetails.Cached
		ok = split.Hit.n+split.Miss.n == u.Prompt.n && (!cached.set || cached.n == split.Hit.n)
		*cached = split.Hit
	}
	u.report(r, ok)
}

// mistralUsage counts the seconds of audio in a prompt beside its tokens; they are priced apart.
func mistralUsage(r *Report, object json.RawMessage) {
	openAIUsage(r, object)
	var audio struct {
		Seconds json.RawMessage `json:"prompt_audio_seconds"`
	}
	if json.Unmarshal(object, &audio) != nil || present(audio.Seconds) && string(audio.Seconds) != "0" && string(audio.Seconds) != "{}" {
		r.Complete = false
	}
}

// xaiUsage counts reasoning beside the completion in chat completions and inside the output in responses,
// and has been seen to change: the total says which. Images are read at the price of text.
func xaiUsage(r *Report, object json.RawMessage) {
	u, ok := readOpenAI(object)
	u.PromptDetails.Image, u.InputDetails.Image = count{}, count{}
	in, out := u.sides()
	if reasoning := out.details.Reasoning.n; reasoning > 0 {
		switch u.Total.n {
		case in.n + out.n: // inside
		case in.n + out.n + reasoning:
			u.Completion.n += reasoning // one of the two is not there
			u.Output.n += reasoning
		default:
			ok = false
		}
	}
	u.report(r, ok)
}

type openAIResponse struct {
	Model       string          `json:"model"`
	ServiceTier string          `json:"service_tier"`
	Usage       json.RawMessage `json:"usage"`
}

// report reads a response, and whether it has usage.
func (o *openAIResponse) report(r *Report, usage func(*Report, json.RawMessage)) bool {
	if o.Model != "" {
		r.Model = o.Model
	}
	if o.ServiceTier != "" {
		r.ServiceTier = ServiceTier(o.ServiceTier)
	}
	if present(o.Usage) {
		usage(r, o.Usage)
	}
	return present(o.Usage)
}

// openAILike reads the response of a provider that has OpenAI's shape with a usage object of its own.
func openAILike(usage func(*Report, json.RawMessage)) func(*Report, json.RawMessage) {
	return func(r *Report, body json.RawMessage) {
		var o openAIResponse
		if json.Unmarshal(body, &o) == nil {
			o.report(r, usage)
		}
	}
}

// openAILikeEvent reads an event of such a provider's stream. It is a chunk of a chat completion, the last of
// which has the usage (OpenAI's when the request asked for it by stream_options.include_usage, and without
// choices; Groq's under x_groq), or an event of a response, of which the last has it. Some providers put the
// usage so far on every chunk: it is final only where the text has ended.
func openAILikeEvent(usage func(*Report, json.RawMessage)) func(*Report, *accumulator, json.RawMessage) {
	return func(r *Report, acc *accumulator, data json.RawMessage) {
		if quiet(r, acc, data) {
			return
		}
		readOpenAIEvent(r, acc, data, usage)
	}
}

func readOpenAIEvent(r *Report, acc *accumulator, data json.RawMessage, usage func(*Report, json.RawMessage)) {
	var event struct {
		openAIResponse
		Response *openAIResponse `json:"response"`
		Groq     struct {
			Usage json.RawMessage `json:"usage"`
		} `json:"x_groq"`
		Choices []struct {
			Finish string `json:"finish_reason"`
		} `json:"choices"`
	}
	if json.Unmarshal(data, &event) != nil {
		return
	}
	if event.Response != nil {
		event.Response.report(r, usage)
		return
	}
	if !present(event.Usage) {
		event.Usage = event.Groq.Usage
	}
	said := event.report(r, usage)
	if said {
		acc.exact = r.Complete
	}
	last := said && len(event.Choices) == 0
	for _, choice := range event.Choices {
		last = last || choice.Finish != ""
	}
	acc.final(r, last)
}

var (
	openAIBody  = openAILike(openAIUsage)
	openAIEvent = openAILikeEvent(openAIUsage)
)
