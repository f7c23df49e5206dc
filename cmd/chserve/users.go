package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
)

// user is one entry of the users file.
type user struct {
	Name string `json:"user"`
	// Password is plain text, which is why the file must be private to its owner.
	Password string `json:"password"`
	// Tenant is the only tenant whose rows the user sees; empty shows no rows.
	Tenant string `json:"tenant"`
	// Admin users see and change everything, and have no tenant.
	Admin bool `json:"admin"`
}

// loadUsers reads and checks the users file.
func loadUsers(path string) ([]user, error) {
	if path == "" {
		return nil, errors.New("--users is required: a JSON file of the users who may connect")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the users: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the users: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o and holds passwords: run chmod 600 on it", path, mode)
	}
	var users []user
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&users); err != nil {
		return nil, fmt.Errorf("reading the users in %s: %w", path, err)
	}
	var errs []error
	if len(users) == 0 {
		errs = append(errs, fmt.Errorf("%s names no user", path))
	}
	seen := map[string]bool{}
	for i, u := range users {
		switch {
		case u.Name == "" || u.Password == "":
			errs = append(errs, fmt.Errorf("%s: entry %d has no user or no password", path, i))
		case seen[u.Name]:
			errs = append(errs, fmt.Errorf("%s: user %q is there twice", path, u.Name))
		case u.Admin && u.Tenant != "":
			errs = append(errs, fmt.Errorf("%s: user %q is admin and has a tenant: choose one", path, u.Name))
		}
		seen[u.Name] = true
	}
	return users, errors.Join(errs...)
}

// authenticate returns the user of a request, by any of the ways that ClickHouse knows: Basic
// authentication, the X-ClickHouse headers or the URL's parameters.
func authenticate(users []user, r *http.Request) (user, error) {
	name, password, ok := r.BasicAuth()
	if !ok {
		name, password = r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	}
	if name == "" {
		query := r.URL.Query()
		name, password = query.Get("user"), query.Get("password")
	}
	// Every entry is compared, in time that does not depend on the password, so timing tells nothing.
	given := sha256.Sum256([]byte(name + "\x00" + password))
	var found *user
	for i := range users {
		want := sha256.Sum256([]byte(users[i].Name + "\x00" + users[i].Password))
		if subtle.ConstantTimeCompare(given[:], want[:]) == 1 {
			found = &users[i]
		}
	}
	if found == nil {
		return user{}, exception(codeAuthenticationFailed, "%s: Authentication failed: password is incorrect, or there is no user with such name.", name)
	}
	return *found, nil
}
