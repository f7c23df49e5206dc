package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/router"
	"github.com/flyball-dev/flyball/internal/usage"
)

// PredictorStore is where the versions of the predictor are kept: ClickHouse.
type PredictorStore interface {
	RouterSalt(ctx context.Context) (string, error)
	Predictors(ctx context.Context) ([]router.Version, error)
	Predictor(ctx context.Context, version string) ([]byte, error)
}

// PredictorOptions is all that Predictors need; every field is required but Embedder.
type PredictorOptions struct {
	Store  PredictorStore
	File   string                                                // keeps the last that was known, the deployment's salt with it
	Record func(ctx context.Context, tuples []usage.Tuple) error // makes what was known of calls durable
	Logger *slog.Logger

	Embedder *Embedder // reads prompts; nil: n-grams do
}

// Predictors have the version of the predictor that is in use in memory, and keep what was known of calls for those to
// come. Make them with NewPredictors, and keep Run running beside them. Nobody who asks or records waits for anybody, but
// who asks where an embeddings endpoint reads prompts, and then for a bounded time; nil ones know nothing and keep nothing.
type Predictors struct {
	o      PredictorOptions
	now    atomic.Pointer[inUse]
	queue  chan known
	missed atomic.Int64 // calls of which nothing is kept, since the queue was full or the spool took nothing

	salted  bool   // the salt is the store's, not only the file's; of Run
	refused string // a version that cannot predict here; of Run
	why     error
}

// inUse is what predicts.
type inUse struct {
	salt      string // empty: not known yet
	extract   router.Extractor
	predictor *router.Predictor // nil: none is in use
	artefact  []byte
}

// known is a call of which something is to be kept: the features, or the text that they are read from.
type known struct {
	tuple usage.Tuple
	text  string
}

// The pace of Predictors: how often it is read which version is in use (a rollback waits for it), how long that may take,
// how many calls wait to be kept, with eight kilobytes of text each at the most, and how many are stored at once.
const (
	predictorEvery  = 10 * time.Second
	predictorWithin = time.Minute
	tupleLimit      = 4096
	tupleBatch      = 500
	tupleGather     = 200 * time.Millisecond
	tupleLast       = 2 * time.Second // for what is left when the gateway stops
)

// predictorFile is the form of the file.
type predictorFile struct {
	Salt     string          `json:"salt"`
	Artefact json.RawMessage `json:"predictor,omitempty"`
}

// NewPredictors returns those that predict by what the file has. One that is missing or damaged is only a later start:
// the store has all of it.
func NewPredictors(o PredictorOptions) *Predictors {
	p := &Predictors{o: o, queue: make(chan known, tupleLimit)}
	p.now.Store(&inUse{})
	raw, err := os.ReadFile(o.File)
	if errors.Is(err, fs.ErrNotExist) {
		return p
	}
	var last predictorFile
	if err == nil {
		err = json.Unmarshal(raw, &last)
	}
	if err == nil && last.Salt != "" {
		next := &inUse{salt: last.Salt, extract: o.Embedder.Reading().Extractor(last.Salt)}
		if len(last.Artefact) > 0 {
			err = next.load(last.Artefact)
		}
		p.now.Store(next)
	}
	if err != nil {
		o.Logger.Warn("The last predictor that was known cannot be read; nothing is predicted until the store answers", "file", o.File, "error", err)
	}
	return p
}

func (u *inUse) load(artefact []byte) error {
	m, err := router.ReadModel(artefact)
	if err != nil {
		return err
	}
	predictor, err := router.NewPredictor(m, u.extract)
	if err != nil {
		return err
	}
	u.predictor, u.artefact = predictor, artefact
	return nil
}

// Quality predicts by the version in use; see router.Predictor.
func (p *Predictors) Quality(tenant, task, model, text string) (score float64, version string, known bool) {
	if p == nil {
		return 0, "", false
	}
	now := p.now.Load()
	if !now.extract.Embeds() {
		return now.predictor.Quality(tenant, task, model, text)
	}
	if _, known = now.predictor.Base(task, model); !known { // whatever the text is
		return 0, now.predictor.Version(), false
	}
	vector, err := p.o.Embedder.Vector(text)
	if err != nil { // which the embedder counts and tells
		return 0, now.predictor.Version(), false
	}
	features := now.extract.Embedded(text, vector)
	score, known = now.predictor.Score(task, model, &features)
	return score, now.predictor.Version(), known
}

// read takes what of a text is to be recorded when the call has ended: its features, or, where an endpoint has yet to be
// asked for them, as much of the text as it is asked about. Both are empty where nothing can be kept of it.
func (p *Predictors) read(text string) (features []byte, later string) {
	if p == nil || text == "" {
		return nil, ""
	}
	now := p.now.Load()
	switch {
	case now.salt == "":
		return nil, ""
	case now.extract.Embeds():
		return nil, strings.Clone(embeddable(text)) // and not what it was cut from
	}
	features, _ = now.extract.Features(text).MarshalBinary() // never fails
	return features, ""
}

// record keeps what was known of a call that has ended: by its features where they are given, else by its text. Where
// the queue is full the call is left out.
func (p *Predictors) record(t usage.Tuple, text string) {
	if p == nil || text == "" && len(t.Features) == 0 {
		return
	}
	select {
	case p.queue <- known{t, text}:
	default:
		p.missed.Add(1)
	}
}

// tupleOf is what is kept of a call beside its prompt's features.
func tupleOf(s *usage.Span, estimate usage.PicoUSD) usage.Tuple {
	return usage.Tuple{
		TraceID: s.TraceID, SpanID: s.SpanID, Timestamp: s.Timestamp, TenantID: s.TenantID, Task: s.Task,
		RequestedModel: s.RequestedModel, Model: s.Model, EstimatedCost: estimate,
	}
}

// Run keeps the version in use fresh and stores what is recorded until ctx ends, which is not an error, and then what is
// left.
func (p *Predictors) Run(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { p.follow(ctx); return nil })
	group.Go(func() error { p.keep(ctx); return nil })
	return group.Wait()
}

// follow reads which version is in use. While the store is away, or has one that cannot predict here, the last one
// predicts on.
func (p *Predictors) follow(ctx context.Context) {
	away := false
	for ctx.Err() == nil {
		err := p.refresh(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !away:
			p.o.Logger.WarnContext(ctx, "The predictor in use cannot be read; what predicted before goes on", "error", err)
		case err == nil && away:
			p.o.Logger.InfoContext(ctx, "The predictor in use can be read again")
		}
		away = err != nil
		wait(ctx, predictorEvery)
	}
}

func (p *Predictors) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, predictorWithin)
	defer cancel()
	last := p.now.Load()
	next := *last
	if !p.salted {
		salt, err := p.o.Store.RouterSalt(ctx)
		if err != nil {
			return err
		}
		if p.salted = true; salt != last.salt { // the first, or the file was another deployment's
			next = inUse{salt: salt, extract: p.o.Embedder.Reading().Extractor(salt)}
		}
	}
	versions, err := p.o.Store.Predictors(ctx)
	if err == nil {
		err = p.turn(ctx, &next, versions)
	}
	if next.salt == last.salt && next.predictor == last.predictor {
		return err
	}
	p.now.Store(&next)
	p.o.Logger.InfoContext(ctx, "The predictor in use has changed", "version", next.predictor.Version(), "before", last.predictor.Version())
	return errors.Join(err, p.save(&next))
}

// turn makes next predict by the version in use. Where that cannot be, it stays as it is, unless what it has was rolled
// back.
func (p *Predictors) turn(ctx context.Context, next *inUse, versions []router.Version) error {
	used := router.LineupOf(versions).InUse
	if used == nil {
		next.predictor, next.artefact, p.refused, p.why = nil, nil, "", nil
		return nil
	}
	if used.Version == next.predictor.Version() {
		return nil
	}
	err := p.why
	if used.Version != p.refused {
		var artefact []byte
		if artefact, err = p.o.Store.Predictor(ctx, used.Version); err == nil {
			p.refused, p.why = "", nil
			if err = next.load(artefact); err == nil {
				return nil
			}
			p.refused, p.why = used.Version, err
		}
	}
	for _, v := range versions {
		if v.Version == next.predictor.Version() && v.State == router.RolledBack {
			next.predictor, next.artefact = nil, nil
		}
	}
	return err
}

// save writes the file, whole or not at all. Whoever has the salt can test guesses of prompts against stored features.
func (p *Predictors) save(u *inUse) error {
	raw, err := json.Marshal(predictorFile{u.salt, u.artefact})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(p.o.File), 0o700)
	}
	if err == nil {
		err = os.WriteFile(p.o.File+".new", raw, 0o600)
	}
	if err == nil {
		err = os.Rename(p.o.File+".new", p.o.File)
	}
	if err != nil {
		return fmt.Errorf("keeping the predictor in use: %w", err)
	}
	return nil
}

// keep stores what is recorded. It is a sample to learn from: what the spool does not take is left out, so that the
// telemetry of calls never waits for it.
func (p *Predictors) keep(ctx context.Context) {
	told := int64(0)
	last, cancel := context.WithCancel(context.WithoutCancel(ctx)) // of what is under way when ctx ends, too
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(tupleLast, cancel) })()
	for {
		select {
		case <-ctx.Done():
			for batch := p.gather(nil); len(batch) > 0; batch = p.gather(nil) {
				p.store(last, p.finish(last, batch))
			}
			return
		case first := <-p.queue:
			wait(ctx, tupleGather)
			p.store(last, p.finish(last, p.gather([]known{first})))
		}
		if missed := p.missed.Load(); missed >= 2*told && missed > 0 && missed != told {
			p.o.Logger.WarnContext(ctx, "Features of calls are left out: the predictor is trained from fewer of them", "calls", missed)
			told = missed
		}
	}
}

// gather takes what waits, up to a batch.
func (p *Predictors) gather(batch []known) []known {
	for len(batch) < tupleBatch {
		select {
		case r := <-p.queue:
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// finish reads the texts where that is still to be done, and says what the version in use predicted. What cannot be read
// is left out.
func (p *Predictors) finish(ctx context.Context, batch []known) []usage.Tuple {
	now := p.now.Load()
	if now.salt == "" { // nobody could say later how they were read
		return nil
	}
	features := p.features(ctx, now.extract, batch)
	tuples := make([]usage.Tuple, 0, len(batch))
	for i := range batch {
		t, f := batch[i].tuple, features[i]
		if f == nil {
			p.missed.Add(1)
			continue
		}
		t.Features, _ = f.MarshalBinary() // never fails
		t.Reading = now.extract.Name()
		if score, ok := now.predictor.Score(t.Task, t.RequestedModel, f); ok {
			t.Predicted, t.Predictor = score, now.predictor.Version()
		}
		tuples = append(tuples, t)
	}
	return tuples
}

// features are those of the calls; nil where they cannot be had.
func (p *Predictors) features(ctx context.Context, extract router.Extractor, batch []known) []*router.Features {
	all := make([]*router.Features, len(batch))
	var vectors [][]float32
	if extract.Embeds() {
		texts := make([]string, len(batch))
		for i := range batch {
			texts[i] = batch[i].text
		}
		vectors, _ = p.o.Embedder.Vectors(ctx, texts) // which tells what fails
	}
	for i, k := range batch {
		var f router.Features
		switch {
		case len(k.tuple.Features) > 0:
			if f.UnmarshalBinary(k.tuple.Features) != nil {
				continue
			}
		case !extract.Embeds():
			f = extract.Features(k.text)
		case vectors[i] != nil:
			f = extract.Embedded(k.text, vectors[i])
		default:
			continue
		}
		all[i] = &f
	}
	return all
}

func (p *Predictors) store(ctx context.Context, batch []usage.Tuple) {
	if len(batch) == 0 {
		return
	}
	err := p.o.Record(ctx, batch)
	switch {
	case err == nil:
	case errors.Is(err, ingest.ErrRecord) && len(batch) > 1:
		for i := range batch { // all are refused for one: find it
			p.store(ctx, batch[i:i+1])
		}
	default:
		p.missed.Add(int64(len(batch)))
		p.o.Logger.DebugContext(ctx, "Features of calls are left out", "calls", len(batch), "error", err)
	}
}
