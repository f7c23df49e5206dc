package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
)

func chatParams() openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: "gpt-4o", MaxCompletionTokens: openai.Int(100),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Tell me about governors.")},
	}
}

func messageParams() anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: "claude-sonnet-4-5", MaxTokens: 100,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Tell me about governors."))},
	}
}

func TestOpenAIsClient(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{}, nil)
	client := r.openAI()

	whole, err := client.Chat.Completions.New(t.Context(), chatParams())
	require.NoError(t, err)
	require.Contains(t, whole.Choices[0].Message.Content, "the governor holds")
	require.EqualValues(t, 16, whole.Usage.CompletionTokens)

	stream := client.Chat.Completions.NewStreaming(t.Context(), chatParams())
	var all openai.ChatCompletionAccumulator
	for stream.Next() {
		require.True(t, all.AddChunk(stream.Current()))
	}
	require.NoError(t, stream.Err())
	require.Equal(t, whole.Choices[0].Message.Content, all.Choices[0].Message.Content)
	require.Zero(t, all.Usage.CompletionTokens, "it was not asked for")

	embedded, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
		Model: "text-embedding-3-small", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}},
	})
	require.NoError(t, err)
	require.Len(t, embedded.Data, 2)

	response := responses.ResponseNewParams{
		Model: "gpt-5", MaxOutputTokens: openai.Int(100),
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Tell me about governors.")},
	}
	answered, err := client.Responses.New(t.Context(), response)
	require.NoError(t, err)
	require.Contains(t, answered.OutputText(), "the governor holds")
	events := client.Responses.NewStreaming(t.Context(), response)
	text := ""
	for events.Next() {
		text += events.Current().Delta
	}
	require.NoError(t, events.Err())
	require.Equal(t, answered.OutputText(), text)

	models, err := client.Models.List(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, models.Data)
	one, err := client.Models.Get(t.Context(), models.Data[0].ID)
	require.NoError(t, err)
	require.Equal(t, models.Data[0].ID, one.ID)

	spent, spend := int64(0), r.upstream.Spend()
	for n := range 5 {
		span := r.span(n + 1)
		require.True(t, span.UsageComplete, span.RequestedModel)
		require.True(t, span.Priced, span.RequestedModel)
		spent += span.Tokens.Output
	}
	require.Equal(t, spend.Output, spent)
	require.Len(t, r.durable(), 5, "lists of models are no calls")
}

func TestAnthropicsClient(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{}, nil)
	client := r.claude()
	whole, err := client.Messages.New(t.Context(), messageParams())
	require.NoError(t, err)
	require.Contains(t, whole.Content[0].Text, "the governor holds")

	stream := client.Messages.NewStreaming(t.Context(), messageParams())
	var all anthropic.Message
	for stream.Next() {
		require.NoError(t, all.Accumulate(stream.Current()))
	}
	require.NoError(t, stream.Err())
	require.Equal(t, whole.Content[0].Text, all.Content[0].Text)

	counted, err := client.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{Model: "claude-sonnet-4-5", Messages: messageParams().Messages})
	require.NoError(t, err)
	require.Equal(t, whole.Usage.InputTokens, counted.InputTokens)

	models, err := client.Models.List(t.Context(), anthropic.ModelListParams{})
	require.NoError(t, err)
	require.NotEmpty(t, models.Data)

	require.Equal(t, "org_b", r.span(2).TenantID)
	require.Len(t, r.durable(), 2)
}

func TestToolsThroughTheClients(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{CallTools: true}, nil)
	schema := map[string]any{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}}
	params := chatParams()
	params.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{Name: "weather", Parameters: schema})}
	whole, err := r.openAI().Chat.Completions.New(t.Context(), params)
	require.NoError(t, err)
	require.Equal(t, "weather", whole.Choices[0].Message.ToolCalls[0].Function.Name)

	own := messageParams()
	own.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{Name: "weather", InputSchema: anthropic.ToolInputSchemaParam{Properties: schema["properties"]}}}}
	stream := r.claude().Messages.NewStreaming(t.Context(), own)
	var all anthropic.Message
	for stream.Next() {
		require.NoError(t, all.Accumulate(stream.Current()))
	}
	require.NoError(t, stream.Err())
	require.Equal(t, anthropic.StopReasonToolUse, all.StopReason)
	require.Equal(t, "weather", all.Content[len(all.Content)-1].Name)
	require.True(t, r.span(2).UsageComplete)
}

// TestErrorsThroughTheClients: a client raises what it would of its provider, and tries again as it would.
func TestErrorsThroughTheClients(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{Models: []string{"gpt-4o", "claude-sonnet-4-5"}}, nil)

	params := chatParams()
	params.Model = "gpt-none"
	_, err := r.openAI().Chat.Completions.New(t.Context(), params)
	var failed *openai.Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, http.StatusNotFound, failed.StatusCode)
	require.Equal(t, "model_not_found", failed.Code)

	r.upstream.Fail(upstreamtest.Failure{Status: 429, RetryAfter: time.Millisecond}, upstreamtest.Failure{Status: 500})
	_, err = r.openAI(option.WithMaxRetries(2)).Chat.Completions.New(t.Context(), chatParams())
	require.NoError(t, err, "the client itself tries again")

	r.upstream.Fail(upstreamtest.Failure{Status: 529})
	_, err = r.claude().Messages.New(t.Context(), messageParams())
	var own *anthropic.Error
	require.ErrorAs(t, err, &own)
	require.Equal(t, 529, own.StatusCode)
	require.Contains(t, own.RawJSON(), "overloaded_error")

	_, err = r.claude(anthropicoption.WithAPIKey("fly_nobody")).Messages.New(t.Context(), messageParams())
	require.ErrorAs(t, err, &own)
	require.Equal(t, http.StatusUnauthorized, own.StatusCode)
	require.Contains(t, own.RawJSON(), "authentication_error")

	r.span(1)
	require.Len(t, r.durable(), 1, "what a provider refused is no call")
	r.upstream.Fail(upstreamtest.Failure{Err: 3})
	stream := r.claude().Messages.NewStreaming(t.Context(), messageParams())
	for stream.Next() {
	}
	require.ErrorContains(t, stream.Err(), "overloaded_error")
	span := r.span(2)
	require.False(t, span.UsageComplete)
	require.GreaterOrEqual(t, span.Tokens.Output, int64(3))
}

// TestCancelThroughTheClients: who goes away is not generated for any longer, and pays at least for what was.
func TestCancelThroughTheClients(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{OutputTokens: 100_000, Pace: time.Millisecond}, nil)
	ctx, leave := context.WithCancel(t.Context())
	params := chatParams()
	params.MaxCompletionTokens = openai.Int(50_000)
	stream := r.openAI().Chat.Completions.NewStreaming(ctx, params)
	for range 5 {
		require.True(t, stream.Next())
	}
	leave()
	for stream.Next() {
	}
	require.True(t, errors.Is(stream.Err(), context.Canceled), stream.Err())
	eventually(t, "the provider goes on generating for nobody", func() bool { return r.upstream.InFlight() == 0 })
	span := r.span(1)
	require.False(t, span.UsageComplete)
	spend := r.upstream.Spend()
	require.GreaterOrEqual(t, span.Tokens.Output, spend.Output)
	require.GreaterOrEqual(t, span.Tokens.Input(), spend.Input)
	require.Less(t, span.Tokens.Output, int64(10_000), "far from the worst")
}
