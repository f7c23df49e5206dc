package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/complexity"
	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/simulate"
	"github.com/flyball-dev/flyball/policies"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"flyball": func() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// letters is a vector of how often each letter is in a text.
func letters(text string) []float64 {
	v := make([]float64, 26)
	for _, r := range text {
		if r >= 'a' && r <= 'z' {
			v[r-'a']++
		}
	}
	return v
}

// TestScript runs testdata/script. Each script has a server of its own in $URL: the simulator's
// control API, the complexity of tasks, budgets, embeddings, an ingest that knows a span again by its id, and a real one of scores.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			handler := fakeIngest()
			quality, err := qualityIngest(env.WorkDir)
			if err != nil {
				return err
			}
			handler.Handle("/v1/quality", quality.Handler())
			handler.Handle("/v1/embeddings", upstreamtest.New(upstreamtest.Options{Key: "sk-1", Embed: letters}))
			budgets, closeBudgets, err := budgetServer()
			if err != nil {
				return err
			}
			handler.Handle("/v1/budgets", budgets)
			handler.Handle("/v1/budgets/", budgets)
			server := httptest.NewServer(handler)
			env.Defer(func() { server.Close(); closeBudgets(); _ = quality.Close() })
			env.Setenv("URL", server.URL)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// code runs a command that must exit with the code given.
			"code": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				var exit *exec.ExitError
				if !errors.As(err, &exit) || fmt.Sprint(exit.ExitCode()) != args[0] {
					ts.Fatalf("%s ended with %v, not with exit code %s", args[1], err, args[0])
				}
			},
			// reload has one holder load the directories in turn, as a process does whose files change, and prints what
			// became of each.
			"reload": func(ts *testscript.TestScript, _ bool, dirs []string) {
				set, err := policy.Load(policies.Files)
				ts.Check(err)
				holder := policy.NewHolder(set, slog.New(slog.DiscardHandler))
				names := map[*policy.Set]string{set: "the shipped set"}
				for _, dir := range dirs {
					if err := holder.Reload(os.DirFS(ts.MkAbs(dir))); err != nil {
						fmt.Fprintln(ts.Stdout(), err)
					} else {
						names[holder.Set()] = dir
					}
					fmt.Fprintf(ts.Stdout(), "%s: in force is %s\n", dir, names[holder.Set()])
				}
			},
			// revision sets $REVISION to that of a directory's set.
			"revision": func(ts *testscript.TestScript, _ bool, dirs []string) {
				set, err := policy.Compile(os.DirFS(ts.MkAbs(dirs[0])))
				ts.Check(err)
				ts.Setenv("REVISION", set.Revision())
			},
			// addresses writes what flyball up would.
			"addresses": func(ts *testscript.TestScript, _ bool, _ []string) {
				text, err := json.Marshal(map[string]any{"ingest": ts.Getenv("URL"), "clickhouse": map[string]string{"url": "x"}})
				ts.Check(err)
				path := ts.MkAbs(addressesFile)
				ts.Check(os.MkdirAll(filepath.Dir(path), 0o700))
				ts.Check(os.WriteFile(path, text, 0o600))
			},
		},
		RequireExplicitExec: true,
	})
}

// qualityIngest is an ingest whose store is away: what it takes stays in its spool.
func qualityIngest(dir string) (*ingest.Ingest, error) {
	prices, err := book.Default()
	if err != nil {
		return nil, err
	}
	return ingest.Open(ingest.Options{Dir: filepath.Join(dir, ".spool"), Sink: &clickhouse.Store{}, Book: prices, Logger: slog.New(slog.DiscardHandler)})
}

func fakeIngest() *http.ServeMux {
	seen := map[string]bool{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /v1/spans", func(w http.ResponseWriter, r *http.Request) {
		var spans []struct {
			ID    string `json:"span_id"`
			Model string `json:"model"`
		}
		if err := json.NewDecoder(r.Body).Decode(&spans); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		accepted, duplicates, refused := 0, 0, []map[string]any{}
		for i, s := range spans {
			switch {
			case s.Model == "refused":
				refused = append(refused, map[string]any{"index": i, "field": "model", "reason": "is not welcome"})
			case seen[s.ID]:
				duplicates++
			default:
				seen[s.ID] = true
				accepted++
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"accepted": accepted, "refused": refused, "duplicates": duplicates})
	})
	mux.HandleFunc("POST /v1/feedback", func(w http.ResponseWriter, r *http.Request) {
		var said []feedback
		if err := json.NewDecoder(r.Body).Decode(&said); err != nil || len(said) != 1 {
			http.Error(w, "want one", http.StatusBadRequest)
			return
		}
		f := said[0]
		answer := map[string]any{"accepted": 1, "refused": []any{}, "duplicates": 0}
		switch by := f.TraceID + "/" + f.By; {
		case f.TraceID == "refused":
			answer = map[string]any{"accepted": 0, "refused": []any{map[string]any{"index": 0, "field": "trace_id", "reason": "is not welcome"}}}
			w.WriteHeader(http.StatusBadRequest)
		case seen[by]:
			answer["accepted"], answer["duplicates"] = 0, 1
		default:
			seen[by] = true
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	chaos := simulate.New(simulate.Options{Seed: 1, Logger: slog.New(slog.DiscardHandler)}).Handler()
	mux.Handle("/v1/chaos", chaos)
	mux.Handle("/v1/chaos/", chaos)
	mux.Handle("/v1/complexity", complexity.New(&scoreMemory{}, slog.New(slog.DiscardHandler), time.Now).Handler("", ""))
	return mux
}
