// Package policy decides by rules that people keep in git: whether facts are a finding (alert.yaml),
// what is to be done about an incident (act.yaml), how much is scored (sampling.yaml), and which
// models may stand in for which (tradeoff.yaml). It hides CEL, cel-go's policy format and all that
// this format lets pass: a Set that was loaded has been checked, and its tests have passed.
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"reflect"
	"slices"
	"strings"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/policies"
)

var alertKind = kind{
	file:     "alert.yaml",
	facts:    reflect.TypeFor[detect.Facts](),
	neutral:  reflect.ValueOf(detect.Facts{Active: string(detect.None), CostRatio: 1, QualityRatio: 1, SpendRatio: 1, VolumeRatio: 1, CompletionChange: 1, VelocityRatio: 1}),
	output:   reflect.TypeFor[detect.Verdict](),
	required: []string{"level", "rule", "reason"},
	values: map[string][]string{
		"level": {string(detect.Page), string(detect.Investigate), string(detect.None), string(detect.Inconclusive)},
	},
}

var actKind = kind{
	file:     "act.yaml",
	facts:    reflect.TypeFor[ActFacts](),
	neutral:  reflect.ValueOf(ActFacts{CostRatio: 1, QualityRatio: 1, SpendRatio: 1, VolumeRatio: 1}),
	output:   reflect.TypeFor[Proposal](),
	required: []string{"action", "mode", "rule", "reason"},
	values: map[string][]string{
		"action": {string(Downgrade), string(Upgrade), string(Pin), string(HardStop), string(Shaping), string(Sampling), string(Rollback), string(NoAction)},
		"mode":   {string(Auto), string(Ask), string(Never)},
	},
}

var samplingKind = kind{
	file:     "sampling.yaml",
	facts:    reflect.TypeFor[SamplingFacts](),
	neutral:  reflect.ValueOf(SamplingFacts{}),
	output:   reflect.TypeFor[Sample](),
	required: []string{"rate", "rule"},
}

// Set is one consistent set of policies. It is immutable and safe for concurrent use.
type Set struct {
	revision string
	shipped  []string // the files that the directory did not have
	alert    *program
	act      *program
	sampling *program
	tradeoff routing.Tradeoff
	suites   []*suite
}

// Load reads a policy directory, compiles it and runs its tests. A file that the directory does not
// have is the shipped one. The error is Problems where files are wrong: all that were found.
func Load(fsys fs.FS) (*Set, error) {
	set, err := Compile(fsys)
	if err != nil {
		return nil, err
	}
	if err := set.Test().Failures.err(); err != nil {
		return nil, err
	}
	return set, nil
}

// Compile is Load without running the tests.
func Compile(fsys fs.FS) (*Set, error) {
	l := &loader{fsys: fsys, set: &Set{}, hash: sha256.New()}
	if err := l.onlyKnownFiles(); err != nil {
		return nil, err
	}
	l.set.alert = l.policy(alertKind)
	l.set.act = l.policy(actKind)
	l.set.sampling = l.policy(samplingKind)
	src, _ := l.read(tradeoffFile)
	l.set.tradeoff = tradeoff(src)
	l.problems = append(l.problems, src.problems...)
	l.set.revision = hex.EncodeToString(l.hash.Sum(nil))[:12]
	if l.err != nil {
		return nil, l.err
	}
	if err := l.problems.err(); err != nil {
		return nil, err
	}
	return l.set, nil
}

// Revision names the set's contents: a short hash that stands on every decision made by it. That of no set is empty.
func (s *Set) Revision() string {
	if s == nil {
		return ""
	}
	return s.revision
}

// Shipped lists the files of the set that are the shipped ones.
func (s *Set) Shipped() []string { return slices.Clone(s.shipped) }

// Tradeoff is the table of models and tenants.
func (s *Set) Tradeoff() routing.Tradeoff { return s.tradeoff }

// Alert says what the facts of one key mean. The rule is empty with NONE.
func (s *Set) Alert(f detect.Facts) (detect.Verdict, error) {
	v, err := decide[detect.Verdict](s.alert, f)
	if v.Level == detect.None {
		v.Rule = ""
	}
	return v, err
}

// Act says what is to be done about an incident.
func (s *Set) Act(f ActFacts) (Proposal, error) {
	p, err := decide[Proposal](s.act, f)
	return p.about(f), err
}

// about is the proposal as it holds for the incident: a regulated tenant is always asked. That is not a matter of policy:
// whoever writes one that forgets it must not act on such a tenant's traffic by that.
func (p Proposal) about(f ActFacts) Proposal {
	if p.Mode == Auto && f.RiskClass == string(routing.Regulated) {
		p.Mode, p.Reason = Ask, p.Reason+"; a regulated tenant always asks"
	}
	return p
}

// Sampling says which share of a key's calls is scored.
func (s *Set) Sampling(f SamplingFacts) (Sample, error) { return decide[Sample](s.sampling, f) }

func decide[O any](p *program, facts any) (O, error) {
	_, out, err := p.run(reflect.ValueOf(facts))
	if err != nil {
		var none O
		return none, fmt.Errorf("evaluate %s: %w", p.kind.file, err)
	}
	return out.Interface().(O), nil
}

// loader gathers a set from a directory over the shipped files.
type loader struct {
	fsys     fs.FS
	set      *Set
	hash     hash.Hash
	problems Problems
	err      error
}

// onlyKnownFiles refuses YAML files that are not part of a set: a misspelt name would leave the
// shipped policy in force without a word.
func (l *loader) onlyKnownFiles() error {
	entries, err := fs.ReadDir(l.fsys, ".")
	if err != nil {
		return fmt.Errorf("read the policy directory: %w", err)
	}
	known := []string{alertKind.file, actKind.file, samplingKind.file, tradeoffFile}
	for _, k := range []kind{alertKind, actKind, samplingKind} {
		known = append(known, testFile(k.file))
	}
	found := false
	for _, e := range entries {
		if e.IsDir() || !(strings.HasSuffix(e.Name(), ".yaml") || strings.HasSuffix(e.Name(), ".yml")) {
			continue
		}
		found = true
		if !slices.Contains(known, e.Name()) {
			mend := "a set has " + strings.Join(known, ", ")
			if n := nearest(e.Name(), known); n != "" {
				mend = "did you mean " + n + "?"
			}
			l.problems = append(l.problems, Problem{File: e.Name(), Message: "no policy has this name", Mend: mend})
		}
	}
	if !found {
		return errors.New("the policy directory has no .yaml file; to use the shipped policies, name no directory")
	}
	return nil
}

// policy compiles one policy and takes in its tests. An absent test file of a shipped policy is the
// shipped one too.
func (l *loader) policy(k kind) *program {
	src, shipped := l.read(k.file)
	p := compile(k, src)
	l.problems = append(l.problems, src.problems...)
	text, err := fs.ReadFile(l.fsys, testFile(k.file))
	if errors.Is(err, fs.ErrNotExist) {
		if !shipped {
			l.set.suites = append(l.set.suites, &suite{program: p})
			return p
		}
		text, err = policies.Files.ReadFile(testFile(k.file))
	}
	if err != nil {
		l.err = fmt.Errorf("read policy tests: %w", err)
		return p
	}
	tests := newSource(testFile(k.file), text)
	s := parseSuite(p, k, tests)
	l.problems = append(l.problems, tests.problems...)
	l.set.suites = append(l.set.suites, s)
	return p
}

// read reads a file of the set and takes it into the revision.
func (l *loader) read(name string) (src *source, shipped bool) {
	text, err := fs.ReadFile(l.fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		shipped = true
		l.set.shipped = append(l.set.shipped, name)
		text, err = policies.Files.ReadFile(name)
	}
	if err != nil {
		l.err = fmt.Errorf("read the policy: %w", err)
	}
	fmt.Fprintf(l.hash, "%s %d\n%s", name, len(text), text)
	return newSource(name, text), shipped
}

func testFile(name string) string { return strings.TrimSuffix(name, ".yaml") + "_test.yaml" }
