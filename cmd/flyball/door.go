package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/ingest"
)

// openDoor makes the door for the configured tokens and those of their file.
func (s *system) openDoor() (*ingest.Door, error) {
	tokens, err := s.tokens()
	if err != nil {
		return nil, err
	}
	return ingest.NewDoor(tokens)
}

// tokens are the configured ones and those of their file.
func (s *system) tokens() ([]ingest.Token, error) {
	all := s.config.Tokens
	if s.config.TokensFile != "" {
		more, err := config.LoadTokens(s.config.TokensFile)
		if err != nil {
			return nil, err
		}
		all = append(all[:len(all):len(all)], more...)
	}
	tokens := make([]ingest.Token, len(all))
	for i, t := range all {
		tokens[i] = ingest.Token{
			Name: t.Name, Hashes: []string{t.Hash}, Tenant: t.Tenant, NotBefore: t.NotBefore, Expires: t.Expires,
			RequestsPerSecond: t.RequestsPerSecond, RecordsPerSecond: t.RecordsPerSecond, MaxBody: t.MaxBody,
		}
		if t.NextHash != "" {
			tokens[i].Hashes = append(tokens[i].Hashes, t.NextHash)
		}
		for _, scope := range t.Scopes {
			tokens[i].Scopes = append(tokens[i].Scopes, ingest.Scope(scope))
		}
	}
	return tokens, nil
}

// readTokensEvery is how often the file of tokens is looked at. It is compared by what it says: secrets are
// mounted by links that change behind the name.
const readTokensEvery = 5 * time.Second

// watchTokens reads the file of tokens again when it has changed, until ctx ends. A bad one changes nothing.
func (s *system) watchTokens(ctx context.Context) {
	tick := time.NewTicker(readTokensEvery)
	defer tick.Stop()
	var before []byte // the file may have changed since the start: the first look reads it in any case
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := os.ReadFile(s.config.TokensFile)
		if err == nil && bytes.Equal(before, now) {
			continue
		}
		before = now
		s.reloadTokens()
	}
}

func (s *system) reloadTokens() {
	tokens, err := s.tokens()
	if err == nil {
		err = s.door.Replace(tokens)
	}
	if err != nil {
		s.log.Error("The ingest tokens stay as they were", "file", s.config.TokensFile, "error", err)
		return
	}
	s.log.Info("Read the ingest tokens again", "file", s.config.TokensFile, "tokens", len(tokens))
}

// admitted lets in whom the door knows, for a scope, and who may ask this.
func admitted(door *ingest.Door, scope ingest.Scope, may func(*ingest.Caller, *http.Request) error, next http.Handler) http.Handler {
	return known(door, scope, func(w http.ResponseWriter, r *http.Request, caller *ingest.Caller) {
		if err := may(caller, r); err != nil {
			refuse(w, http.StatusForbidden, "forbidden", err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// known lets in whom the door knows, for a scope, and says who it is.
func known(door *ingest.Door, scope ingest.Scope, next func(http.ResponseWriter, *http.Request, *ingest.Caller)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := door.Admit(r, scope, time.Now())
		if err == nil {
			next(w, r, caller)
			return
		}
		status, retry := ingest.StatusOf(err)
		code := map[int]string{http.StatusUnauthorized: "unauthorized", http.StatusForbidden: "forbidden", http.StatusTooManyRequests: "too_many_requests"}[status]
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		if retry > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(retry.Seconds()))))
		}
		refuse(w, status, code, err)
	})
}

// trusted are those who speak for all tenants: flags and decisions concern every one of them.
func trusted(caller *ingest.Caller, _ *http.Request) error {
	if caller.Tenant != "" {
		return fmt.Errorf("the token speaks for the tenant %q alone: send one that is trusted for all tenants", caller.Tenant)
	}
	return nil
}

// ofItsTenant are those who ask about a tenant that their token speaks for.
func ofItsTenant(caller *ingest.Caller, r *http.Request) error {
	if asked := r.URL.Query().Get("tenant"); caller.Tenant != "" && caller.Tenant != asked {
		return fmt.Errorf("the token speaks for the tenant %q alone, not for %q", caller.Tenant, asked)
	}
	return nil
}

// refuse answers in the form of the gateway's own refusals.
func refuse(w http.ResponseWriter, status int, code string, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": code, "message": err.Error()}}) // the caller has gone
}
