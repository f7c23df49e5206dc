package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
)

// user is one entry of the users file.
type user struct {
	Name string `json:"user"`
	// Password is plain text, which is why the file must be private to its owner.
	Password string `json:"password"`
	// Tenants are those whose rows the user sees; without any it sees no rows.
	Tenants []string `json:"tenants"`
	// AllTenants shows the rows of every tenant, and still nothing but the tenant tables.
	AllTenants bool `json:"all_tenants"`
	// Embargoed shows the rows of embargoed models, of the user's tenants, too.
	Embargoed bool `json:"embargoed"`
	// Admin users see and change everything.
	Admin bool `json:"admin"`
}

// limited reports whether the user is anything but an admin.
func (u user) limited() bool { return len(u.Tenants) > 0 || u.AllTenants || u.Embargoed }

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
		case u.Admin && u.limited():
			errs = append(errs, fmt.Errorf("%s: user %q is admin, who sees everything, and has tenants or embargoed beside: choose one", path, u.Name))
		case u.AllTenants && len(u.Tenants) > 0:
			errs = append(errs, fmt.Errorf("%s: user %q has all_tenants and tenants: choose one", path, u.Name))
		case slices.ContainsFunc(u.Tenants, func(t string) bool { return t == "" || strings.ContainsAny(t, "\x00"+tenantSeparator) }):
			errs = append(errs, fmt.Errorf("%s: a tenant of user %q is empty, or holds a control character that no tenant may", path, u.Name))
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
