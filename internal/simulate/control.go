package simulate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// maxOrder bounds the body of POST /v1/chaos.
const maxOrder = 16 << 10

// Order is the body of POST /v1/chaos. For is a duration like "5m".
type Order struct {
	Kind    Kind    `json:"kind"`
	Tenant  string  `json:"tenant_id"`
	Model   string  `json:"model"`
	Factor  float64 `json:"factor"`
	Quality float64 `json:"quality,omitempty"`
	For     string  `json:"for"`
}

// Faults is the answer of GET /v1/chaos.
type Faults struct {
	Faults []Fault `json:"faults"`
}

// Handler serves the control API: POST /v1/chaos starts a fault, GET /v1/chaos lists those that are
// on, DELETE /v1/chaos/{id} ends one. Errors are {"error":{"code","message"}}.
func (s *Simulator) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chaos", s.inject)
	mux.HandleFunc("GET /v1/chaos", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		faults := s.world.Faults(time.Now())
		s.mu.Unlock()
		respond(w, http.StatusOK, Faults{append([]Fault{}, faults...)})
	})
	mux.HandleFunc("DELETE /v1/chaos/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		found := s.world.Stop(r.PathValue("id"))
		s.mu.Unlock()
		if !found {
			refuse(w, http.StatusNotFound, "not_found", fmt.Errorf("there is no fault %q", r.PathValue("id")))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func (s *Simulator) inject(w http.ResponseWriter, r *http.Request) {
	var o Order
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", fmt.Errorf("the body is not an order like {\"kind\":\"cost\",\"tenant_id\":…}: %w", err))
		return
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		refuse(w, http.StatusBadRequest, "bad_request", errors.New("the body holds more than one order"))
		return
	}
	lifetime, err := time.ParseDuration(o.For)
	if err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", fmt.Errorf("for: %q is not a duration like 5m", o.For))
		return
	}
	fault, err := s.Inject(Fault{Kind: o.Kind, Tenant: o.Tenant, Model: o.Model, Factor: o.Factor, Quality: o.Quality}, lifetime)
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, "impossible", err)
		return
	}
	s.Logger.InfoContext(r.Context(), "A fault begins", "id", fault.ID, "tenant", fault.Tenant, "model", fault.Model, "factor", fault.Factor, "ends", fault.Ends)
	respond(w, http.StatusCreated, fault)
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// Problem is the body of every refusal.
type Problem struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

func refuse(w http.ResponseWriter, status int, code string, err error) {
	var p Problem
	p.Error.Code, p.Error.Message = code, err.Error()
	respond(w, status, p)
}
