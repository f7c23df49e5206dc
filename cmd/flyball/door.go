package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/flyball-dev/flyball/internal/ingest"
)

// trustedOnly lets in whom the door trusts for all tenants: flags and decisions concern every one of them.
func trustedOnly(door *ingest.Door, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenant, err := door.Admit(r)
		switch {
		case errors.Is(err, ingest.ErrNoToken):
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, "unauthorized", err)
		case err != nil:
			refuse(w, http.StatusForbidden, "forbidden", err)
		case tenant != "":
			refuse(w, http.StatusForbidden, "forbidden", fmt.Errorf("the token speaks for the tenant %q alone: send one that is trusted for all tenants", tenant))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// refuse answers in the form of the gateway's own refusals.
func refuse(w http.ResponseWriter, status int, code string, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": code, "message": err.Error()}}) // the caller has gone
}
