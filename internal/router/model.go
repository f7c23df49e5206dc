package router

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/routing"
)

// Model is one version of the predictor, as it is stored: weights, and how they came about.
type Model struct {
	Version   string    `json:"version"`
	Features  string    `json:"features"` // the reading of prompts that the weights go with: Extractor.Name
	TrainedAt time.Time `json:"trained_at"`
	From      time.Time `json:"from,omitzero"` // of the tuples that it was trained from, where they have times
	To        time.Time `json:"to,omitzero"`
	N         int       `json:"n"` // tuples
	Seed      uint64    `json:"seed"`
	Folds     int       `json:"folds"`
	Heads     []Head    `json:"heads"`
}

// Head predicts one model's answers to prompts of one task, or of all.
type Head struct {
	Task    string  `json:"task,omitempty"` // empty: all tasks together
	Model   string  `json:"model"`          // that served, without the date of a snapshot
	Base    float64 `json:"base"`           // the mean score of its tuples: what one would say without having read the prompt
	L2      float64 `json:"l2"`             // that held the weights of n-grams or of an embedding back, chosen out of fold
	L2Dense float64 `json:"l2_dense"`       // and those of the shape
	Bias    float64 `json:"bias"`
	Grams   Weights `json:"grams,omitempty"`
	Dense   Weights `json:"dense"`
	Metrics Metrics `json:"metrics"` // out of fold
}

// Metrics say how well a head predicts what it was not trained on.
type Metrics struct {
	N           int      `json:"n"`
	AUC         *float64 `json:"auc"` // nil: all scores are the same
	LogLoss     float64  `json:"log_loss"`
	BaseLogLoss float64  `json:"base_log_loss"` // of the mean alone
	Brier       float64  `json:"brier"`
	Calibration float64  `json:"calibration_error"` // mean distance of predicted from found quality, over ten equal groups
}

// Weights are written as base64 of little-endian float32.
type Weights []float32

// MarshalText encodes the weights.
func (w Weights) MarshalText() ([]byte, error) {
	raw := make([]byte, 0, 4*len(w))
	for _, x := range w {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
	}
	return base64.StdEncoding.AppendEncode(nil, raw), nil
}

// UnmarshalText reads what MarshalText wrote.
func (w *Weights) UnmarshalText(text []byte) error {
	raw, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil || len(raw)%4 != 0 {
		return errors.New("weights are not base64 of float32")
	}
	*w = make(Weights, len(raw)/4)
	for i := range *w {
		(*w)[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return nil
}

// maxHeads bounds a model: tasks times models beyond it have no head of their own.
const maxHeads = 256

// ReadModel reads a stored model and refuses one that cannot predict.
func ReadModel(raw []byte) (*Model, error) {
	m := &Model{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("reading a predictor: %w", err)
	}
	if m.Version == "" || m.Features == "" || len(m.Heads) == 0 || len(m.Heads) > maxHeads {
		return nil, fmt.Errorf("the predictor %q needs a version, the name of its features and between 1 and %d heads", m.Version, maxHeads)
	}
	for i := range m.Heads {
		if err := m.Heads[i].check(); err != nil {
			return nil, fmt.Errorf("the predictor %s, head %d: %w", m.Version, i, err)
		}
	}
	return m, nil
}

func (h *Head) check() error {
	if h.Model == "" || len(h.Grams) != 0 && len(h.Grams) != buckets || len(h.Dense) < shapes || len(h.Dense) > maxDense {
		return fmt.Errorf("it needs a model, %d weights of n-grams or none, and at least %d others", buckets, shapes)
	}
	sum := h.Bias + h.Base
	for _, w := range h.Grams {
		sum += float64(w)
	}
	for _, w := range h.Dense {
		sum += float64(w)
	}
	if math.IsNaN(sum) || math.IsInf(sum, 0) {
		return errors.New("a weight is no number")
	}
	return nil
}

// tasked names what a head is asked about.
type tasked struct{ task, model string }

// Predictor is a model ready to be asked. It never changes, and any number of goroutines may ask it; a nil one knows
// nothing.
type Predictor struct {
	version string
	extract Extractor
	reads   bool // texts, by n-grams: else it only knows features that were made elsewhere
	heads   map[tasked]*Head
}

// NewPredictor makes the model ready to read prompts by the extractor's features; it refuses one that was trained on
// others.
func NewPredictor(m *Model, e Extractor) (*Predictor, error) {
	if m.Features != e.Name() {
		mend := "the salt has changed, or the way of reading; train anew"
		if e.embeds || strings.HasPrefix(m.Features, embeddings) {
			mend = "configure router.embeddings as it was then (model, dimensions), or train anew"
		}
		return nil, fmt.Errorf("the predictor %s was trained on the features %s, and those of here are %s: %s", m.Version, m.Features, e.Name(), mend)
	}
	p := m.Predictor()
	p.extract, p.reads = e, !e.embeds
	return p, nil
}

// Predictor is the model ready to be asked about features that have been made already.
func (m *Model) Predictor() *Predictor {
	p := &Predictor{version: m.Version, heads: map[tasked]*Head{}}
	for i := range m.Heads {
		p.heads[tasked{m.Heads[i].Task, m.Heads[i].Model}] = &m.Heads[i]
	}
	return p
}

// Version is the model's; empty of a nil predictor.
func (p *Predictor) Version() string {
	if p == nil {
		return ""
	}
	return p.version
}

// Quality predicts the score, 0 to 1, that the model's answer to the text would get, and says which version predicts:
// where scores are yes or no it is the probability of a good one. Not ok is a verdict of its own: nothing is known of
// the model's answers, and no rule may rest on the number. Tenants share what is known of a model: the tenant is of the
// question, not of the answer.
func (p *Predictor) Quality(_, task, model, text string) (quality float64, version string, ok bool) {
	if p == nil || !p.reads {
		return 0, "", false
	}
	h := p.head(task, model)
	if h == nil || text == "" {
		return 0, p.version, false
	}
	var r reading
	p.extract.read(text, &r)
	sum, squares := 0.0, 0.0
	for i, c := range &r.counts {
		if c != 0 {
			x := scale(int(c))
			sum += float64(h.Grams[i]) * x
			squares += x * x
		}
	}
	return h.quality(sum, squares, r.shape[:]), p.version, true
}

// Score predicts by features that were made before; see Quality.
func (p *Predictor) Score(task, model string, f *Features) (quality float64, ok bool) {
	if p == nil {
		return 0, false
	}
	h := p.head(task, model)
	if h == nil || len(f.Dense) != len(h.Dense) || len(f.Grams) > 0 && len(h.Grams) == 0 {
		return 0, false
	}
	sum, squares := 0.0, 0.0
	for _, g := range f.Grams {
		x := scale(int(g.Count))
		sum += float64(h.Grams[g.Bucket]) * x
		squares += x * x
	}
	return h.quality(sum, squares, f.Dense), true
}

// Base is what the head that would answer says without having read the prompt.
func (p *Predictor) Base(task, model string) (quality float64, ok bool) {
	if p == nil {
		return 0, false
	}
	h := p.head(task, model)
	if h == nil {
		return 0, false
	}
	return h.Base, true
}

// head is that of the task, or else of all tasks; of the model by that name, or else without its date.
func (p *Predictor) head(task, model string) *Head {
	for _, name := range [...]string{model, ""} {
		if name == "" {
			if name = routing.Undated(model); name == model {
				break
			}
		}
		if h := p.heads[tasked{task, name}]; h != nil {
			return h
		}
		if h := p.heads[tasked{"", name}]; h != nil {
			return h
		}
	}
	return nil
}

func (h *Head) quality(grams, squares float64, dense []float32) float64 {
	z := h.Bias
	if squares > 0 {
		z += grams / math.Sqrt(squares)
	}
	for i, x := range dense {
		z += float64(h.Dense[i]) * float64(x)
	}
	return sigmoid(z)
}

func sigmoid(z float64) float64 { return 1 / (1 + math.Exp(-z)) }
