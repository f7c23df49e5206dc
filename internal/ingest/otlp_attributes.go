package ingest

import (
	"strings"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
)

// meaning is what an attribute says, whatever it is called.
type meaning uint8

const (
	meansOperation meaning = iota
	meansKind              // OpenInference's word for the operation
	meansProvider
	meansRequestedModel
	meansModel
	meansInput
	meansOutput
	meansCacheRead
	meansCacheWrite
	meansCacheWrite1h
	meansReasoning
	meansFirstToken
	meansServiceTier
	meansCost
	meansSession
	meansTemplate
	meansTenant
	meansTask
	meansExperiment
	meansDecision
	meansArm
	meansRoute
	meansComplexity
	meansError
	meansEventName
	meansEvaluator
	meansEvaluatorVersion
	meansEvaluatorKind
	meansScore
	meansConfidence
	meanings int = iota
)

// attributeNames are what each meaning goes by, the one that wins first: OpenTelemetry's GenAI conventions with the
// names that they had before, then OpenInference's.
var attributeNames = [meanings][]string{
	meansOperation:      {"gen_ai.operation.name"},
	meansKind:           {"openinference.span.kind"},
	meansProvider:       {"gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"},
	meansRequestedModel: {"gen_ai.request.model"},
	meansModel:          {"gen_ai.response.model", "llm.model_name", "embedding.model_name"},
	meansInput:          {"gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"},
	meansOutput:         {"gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion"},
	meansCacheRead: {
		"gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens",
		"gen_ai.usage.input_tokens.cached", "llm.token_count.prompt_details.cache_read",
	},
	meansCacheWrite: {
		"gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation.input_tokens",
		"gen_ai.usage.cache_creation_input_tokens", "gen_ai.usage.cache_write_input_tokens",
		"llm.token_count.prompt_details.cache_write",
	},
	meansCacheWrite1h:     {"flyball.usage.cache_write_1h.input_tokens"},
	meansReasoning:        {"gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.reasoning_tokens", "llm.token_count.completion_details.reasoning"},
	meansFirstToken:       {"gen_ai.response.time_to_first_chunk"},
	meansServiceTier:      {"openai.response.service_tier", "gen_ai.openai.response.service_tier"},
	meansCost:             {"gen_ai.usage.cost", "llm.cost.total"},
	meansSession:          {"gen_ai.conversation.id", "session.id"},
	meansTemplate:         {"flyball.prompt_template_version", "gen_ai.prompt.name", "llm.prompt_template.version"},
	meansTenant:           {"flyball.tenant_id", "tenant.id"}, // and last the configured one
	meansTask:             {"flyball.task"},
	meansExperiment:       {"flyball.experiment_id"},
	meansDecision:         {"flyball.decision_id"},
	meansArm:              {"flyball.arm"},
	meansRoute:            {"flyball.route"},
	meansComplexity:       {"flyball.complexity"},
	meansError:            {"error.type"},
	meansEventName:        {"event.name"},
	meansEvaluator:        {"gen_ai.evaluation.name"},
	meansEvaluatorVersion: {"flyball.evaluation.version"},
	meansEvaluatorKind:    {"flyball.evaluation.kind"},
	meansScore:            {"gen_ai.evaluation.score.value"},
	meansConfidence:       {"flyball.evaluation.confidence"},
}

// tagPrefix starts the names of cost-allocation tags.
const tagPrefix = "flyball.tag."

// knownAttribute is what is known of an attribute's name.
type knownAttribute struct {
	name    string
	means   meaning
	rank    int  // among the names of the meaning; the lowest wins
	tag     bool // a tag, which has no meaning of its own
	unique  bool // few records share a value
	special bool // of a resource: holds for its spans too
}

// knownAttributes finds attributes by name.
var knownAttributes = func() map[string]knownAttribute {
	all := map[string]knownAttribute{}
	for m, list := range attributeNames {
		means := meaning(m)
		for rank, name := range list {
			all[name] = knownAttribute{
				name: name, means: means, rank: rank,
				unique:  means == meansSession || means == meansDecision,
				special: means == meansTenant || means == meansTask || means == meansExperiment || means == meansTemplate && rank == 0,
			}
		}
	}
	return all
}()

// attributeOf finds what an attribute means, tags and the configured tenant attribute included. What it does
// not find is nobody's business here and is never decoded: prompts and answers among it.
func (o *otlp) attributeOf(name []byte) (knownAttribute, bool) {
	if a, ok := knownAttributes[string(name)]; ok {
		return a, true
	}
	if o.tenantAttribute != "" && string(name) == o.tenantAttribute {
		return knownAttribute{name: o.tenantAttribute, means: meansTenant, rank: len(attributeNames[meansTenant]), special: true}, true
	}
	if len(name) > len(tagPrefix) && string(name[:len(tagPrefix)]) == tagPrefix {
		return knownAttribute{name: o.share(name), tag: true, special: true}, true
	}
	return knownAttribute{}, false
}

// said is one attribute as the sender gave it. Its value has the official type; nil stands for a null.
type said struct {
	knownAttribute
	value *commonpb.AnyValue
}

// facts are the attributes of one resource, span, event or log record that mean something here, by meaning.
type facts struct {
	by   [meanings]said
	tags []said
}

func (f *facts) reset() {
	f.by = [meanings]said{}
	f.tags = f.tags[:0]
}

// collect sorts attributes by what they mean. Of two with the same name the first counts.
func (o *otlp) collect(f *facts, attributes []*commonpb.KeyValue) error {
	f.reset()
	for _, kv := range attributes {
		name := kv.GetKey()
		a, ok := knownAttributes[name]
		if !ok {
			if a, ok = o.attributeOf([]byte(name)); !ok {
				continue
			}
		}
		if kv.GetValue().GetValue() == nil {
			continue
		}
		if a.tag {
			if len(f.tags) == maxTags {
				return wrongField(tagPrefix+"*", "at most %d tags", maxTags)
			}
			f.tags = append(f.tags, said{a, kv.Value})
			continue
		}
		if before := &f.by[a.means]; before.value == nil || a.rank < before.rank {
			*before = said{a, kv.Value}
		}
	}
	return nil
}

// over takes from a resource what its spans do not say themselves.
func (f *facts) over(resource *facts) {
	for m := range resource.by {
		r := &resource.by[m]
		if r.value != nil && r.special && (f.by[m].value == nil || r.rank < f.by[m].rank) {
			f.by[m] = *r
		}
	}
}

// field names the attribute in a refusal: as the sender called it, or else as it should have.
func (s *said) field(m meaning) string {
	if s.name != "" {
		return s.name
	}
	return attributeNames[m][0]
}

func (f *facts) has(m meaning) bool { return f.by[m].value != nil }

// refused says what is wrong with the attribute that has a meaning.
func (f *facts) refused(m meaning, err error) error {
	return inField([]byte(`"`+f.by[m].field(m)+`"`), err)
}

// isError reports whether an attribute says that the call or the evaluation failed.
func (f *facts) isError() bool { return f.has(meansError) }

// operations are the ones that count, in the words of both conventions. Agents, chains and tools repeat what
// their children say.
func (f *facts) counts() bool {
	if op := &f.by[meansOperation]; op.value != nil {
		switch op.value.GetStringValue() {
		case "chat", "text_completion", "generate_content", "embeddings":
			return true
		}
		return false
	}
	kind := f.by[meansKind].value.GetStringValue()
	return strings.EqualFold(kind, "LLM") || strings.EqualFold(kind, "EMBEDDING")
}

// embeds reports whether the call makes embeddings, which have no output tokens.
func (f *facts) embeds() bool {
	return f.by[meansOperation].value.GetStringValue() == "embeddings" ||
		strings.EqualFold(f.by[meansKind].value.GetStringValue(), "EMBEDDING")
}
