package upstreamtest_test

import (
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
)

// The clients that the providers publish must take the fake for the real thing.

func openAI(url string) openai.Client {
	return openai.NewClient(option.WithBaseURL(url+"/v1/"), option.WithAPIKey("sk-1"), option.WithMaxRetries(0))
}

func claude(url string) anthropic.Client {
	return anthropic.NewClient(anthropicoption.WithBaseURL(url), anthropicoption.WithAPIKey("sk-ant-1"), anthropicoption.WithMaxRetries(0))
}

func chatParams() openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:    "gpt-4o",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Tell me about governors.")},
	}
}

func messageParams(maxTokens int64) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: "claude-sonnet-4-5", MaxTokens: maxTokens,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Tell me about governors."))},
	}
}

func TestChatByTheOfficialClient(t *testing.T) {
	t.Parallel()
	upstream, url := upstreamtest.Start(t, upstreamtest.Options{Key: "sk-1", CachedTokens: 3, ReasoningTokens: 2})
	client := openAI(url)

	whole, err := client.Chat.Completions.New(t.Context(), chatParams())
	require.NoError(t, err)
	require.Contains(t, whole.Choices[0].Message.Content, "the governor holds")
	require.Equal(t, "stop", whole.Choices[0].FinishReason)
	require.EqualValues(t, 18, whole.Usage.CompletionTokens)
	require.EqualValues(t, 2, whole.Usage.CompletionTokensDetails.ReasoningTokens)
	require.EqualValues(t, 3, whole.Usage.PromptTokensDetails.CachedTokens)

	params := chatParams()
	params.MaxCompletionTokens = openai.Int(5)
	params.N = openai.Int(2)
	params.StreamOptions.IncludeUsage = openai.Bool(true)
	stream := client.Chat.Completions.NewStreaming(t.Context(), params)
	var all openai.ChatCompletionAccumulator
	for stream.Next() {
		require.True(t, all.AddChunk(stream.Current()))
	}
	require.NoError(t, stream.Err())
	require.Len(t, all.Choices, 2)
	require.Equal(t, "the governor holds", all.Choices[1].Message.Content, "two of the five were reasoning")
	require.Equal(t, "length", all.Choices[1].FinishReason)
	require.EqualValues(t, 10, all.Usage.CompletionTokens)

	embedded, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: "text-embedding-3-small", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}}})
	require.NoError(t, err)
	require.Len(t, embedded.Data, 2)
	require.Len(t, embedded.Data[1].Embedding, 4)

	require.Equal(t, upstreamtest.Spend{Calls: 3, Input: 2*whole.Usage.PromptTokens + embedded.Usage.PromptTokens, Output: 28}, upstream.Spend())

	models, err := client.Models.List(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, models.Data)
	_, err = client.Models.Get(t.Context(), "nothing")
	var refused *openai.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "model_not_found", refused.Code)
}

func TestResponsesByTheOfficialClient(t *testing.T) {
	t.Parallel()
	_, url := upstreamtest.Start(t, upstreamtest.Options{ReasoningTokens: 1})
	client := openAI(url)
	params := responses.ResponseNewParams{
		Model: "gpt-5", MaxOutputTokens: openai.Int(6),
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Tell me about governors.")},
	}
	whole, err := client.Responses.New(t.Context(), params)
	require.NoError(t, err)
	require.Equal(t, "the governor holds a steady", whole.OutputText())
	require.EqualValues(t, "incomplete", whole.Status)
	require.EqualValues(t, 6, whole.Usage.OutputTokens)

	params.MaxOutputTokens = openai.Int(100)
	stream := client.Responses.NewStreaming(t.Context(), params)
	var kinds []string
	text, last := "", responses.Response{}
	for i := 0; stream.Next(); i++ {
		event := stream.Current()
		require.EqualValues(t, i, event.SequenceNumber)
		text += event.Delta
		last = event.Response
		if len(kinds) == 0 || kinds[len(kinds)-1] != event.Type {
			kinds = append(kinds, event.Type)
		}
	}
	require.NoError(t, stream.Err())
	require.Equal(t, []string{
		"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added", "response.output_text.delta",
		"response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
	}, kinds)
	require.Equal(t, text, last.OutputText())
	require.EqualValues(t, 17, last.Usage.OutputTokens)
}

func TestMessagesByTheOfficialClient(t *testing.T) {
	t.Parallel()
	upstream, url := upstreamtest.Start(t, upstreamtest.Options{Key: "sk-ant-1", CachedTokens: 4})
	client := claude(url)
	whole, err := client.Messages.New(t.Context(), messageParams(5))
	require.NoError(t, err)
	require.Equal(t, "the governor holds a steady", whole.Content[0].Text)
	require.EqualValues(t, "max_tokens", whole.StopReason)
	require.EqualValues(t, 5, whole.Usage.OutputTokens)
	require.EqualValues(t, 4, whole.Usage.CacheReadInputTokens)

	stream := client.Messages.NewStreaming(t.Context(), messageParams(100))
	var all anthropic.Message
	for stream.Next() {
		require.NoError(t, all.Accumulate(stream.Current()))
	}
	require.NoError(t, stream.Err())
	require.Contains(t, all.Content[0].Text, "the governor")
	require.EqualValues(t, "end_turn", all.StopReason)
	require.EqualValues(t, 16, all.Usage.OutputTokens)

	counted, err := client.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{Model: "claude-sonnet-4-5", Messages: messageParams(1).Messages})
	require.NoError(t, err)
	require.Equal(t, whole.Usage.InputTokens+4, counted.InputTokens)
	require.Equal(t, upstreamtest.Spend{Calls: 2, Input: 2 * counted.InputTokens, Output: 21}, upstream.Spend())

	models, err := client.Models.List(t.Context(), anthropic.ModelListParams{})
	require.NoError(t, err)
	require.NotEmpty(t, models.Data)
}

func TestToolsByTheOfficialClients(t *testing.T) {
	t.Parallel()
	_, url := upstreamtest.Start(t, upstreamtest.Options{CallTools: true})
	params := chatParams()
	params.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "look_up"})}
	stream := openAI(url)
	chunks := stream.Chat.Completions.NewStreaming(t.Context(), params)
	var all openai.ChatCompletionAccumulator
	for chunks.Next() {
		all.AddChunk(chunks.Current())
	}
	require.NoError(t, chunks.Err())
	require.Equal(t, "look_up", all.Choices[0].Message.ToolCalls[0].Function.Name)
	require.JSONEq(t, `{"text":"the governor holds a steady speed while load and price keep changing under it the governor"}`, all.Choices[0].Message.ToolCalls[0].Function.Arguments)

	messages := messageParams(100)
	messages.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{Name: "look_up"}}}
	client := claude(url)
	events := client.Messages.NewStreaming(t.Context(), messages)
	var message anthropic.Message
	for events.Next() {
		require.NoError(t, message.Accumulate(events.Current()))
	}
	require.NoError(t, events.Err())
	require.EqualValues(t, "tool_use", message.StopReason)
	require.Contains(t, string(message.Content[0].Input), "the governor")
}

func TestErrorsByTheOfficialClients(t *testing.T) {
	t.Parallel()
	upstream, url := upstreamtest.Start(t, upstreamtest.Options{Models: []string{"gpt-4o", "claude-sonnet-4-5"}, Key: "sk-1"})
	client := openAI(url)
	params := chatParams()
	params.Model = "gpt-none"
	_, err := client.Chat.Completions.New(t.Context(), params)
	var refused *openai.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 404, refused.StatusCode)
	require.Equal(t, "model_not_found", refused.Code)

	upstream.Fail(upstreamtest.Failure{Status: 429, RetryAfter: 2 * time.Second}, upstreamtest.Failure{Err: 2})
	_, err = client.Chat.Completions.New(t.Context(), chatParams())
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 429, refused.StatusCode)
	require.Equal(t, "rate_limit_exceeded", refused.Code)
	require.Equal(t, "2", refused.Response.Header.Get("Retry-After"))
	require.NotEmpty(t, refused.Response.Header.Get("X-Ratelimit-Limit-Requests"))
	stream := client.Chat.Completions.NewStreaming(t.Context(), chatParams())
	for stream.Next() { // only its end matters
	}
	require.ErrorContains(t, stream.Err(), "server_error")

	other := claude(url)
	_, err = other.Messages.New(t.Context(), messageParams(1))
	var denied *anthropic.Error
	require.ErrorAs(t, err, &denied)
	require.Equal(t, 401, denied.StatusCode)
	require.NotEmpty(t, denied.RequestID)
	other = anthropic.NewClient(anthropicoption.WithBaseURL(url), anthropicoption.WithAPIKey("sk-1"), anthropicoption.WithMaxRetries(0))
	upstream.Fail(upstreamtest.Failure{Status: 529}, upstreamtest.Failure{Err: 2})
	_, err = other.Messages.New(t.Context(), messageParams(1))
	require.ErrorAs(t, err, &denied)
	require.Equal(t, 529, denied.StatusCode)
	require.ErrorContains(t, err, "overloaded_error")
	events := other.Messages.NewStreaming(t.Context(), messageParams(10))
	for events.Next() { // only its end matters
	}
	require.ErrorContains(t, events.Err(), "overloaded_error")
}
