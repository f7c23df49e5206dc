package console

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

//go:embed web
var web embed.FS

// asset is one file of the page.
type asset struct {
	contentType string
	etag        string
	body        []byte
}

func loadAssets() (map[string]asset, error) {
	types := map[string]string{
		".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
		".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
	}
	assets := map[string]asset{}
	err := fs.WalkDir(web, "web", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := web.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		url := strings.TrimPrefix(name, "web")
		if url == "/index.html" {
			url = "/"
		}
		assets[url] = asset{types[path.Ext(name)], `"` + hex.EncodeToString(sum[:8]) + `"`, body}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the console's pages: %w", err)
	}
	return assets, nil
}

// The bounds on what is asked and answered.
const (
	maxBody    = 16 << 10
	maxText    = 2000 // of a reason, in bytes
	maxName    = 200  // of a person, in bytes
	maxKeys    = 100
	liveWindow = time.Hour
)

// policy allows the page nothing but its own files and its own API.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves everything of the console. Requests that change something are accepted only as
// JSON from the console's own origin, and none under a host name that is not the console's.
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/status", c.status)
	mux.HandleFunc("GET /api/live", c.live)
	mux.HandleFunc("GET /api/incidents", c.incidents)
	mux.HandleFunc("GET /api/groups", c.groups)
	mux.HandleFunc("GET /api/decisions", c.decisions)
	mux.HandleFunc("GET /api/audit", c.audit)
	mux.HandleFunc("GET /api/savings", c.savings)
	mux.HandleFunc("GET /api/fallback", c.fallback)
	mux.HandleFunc("GET /api/mutes", c.mutes)
	mux.HandleFunc("GET /api/report", c.report)
	mux.HandleFunc("POST /api/decide", c.decide)
	mux.HandleFunc("POST /api/order", c.order)
	mux.HandleFunc("GET /", c.page)
	protected := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !c.knownHost(r.Host) {
			refuse(w, http.StatusForbidden, "host", fmt.Sprintf("the console does not answer to the name %q; open it by its IP address or add the name to its hosts", r.Host))
			return
		}
		if c.o.Hooks != nil && strings.HasPrefix(r.URL.Path, "/hooks/") {
			c.o.Hooks.ServeHTTP(w, r)
			return
		}
		protected.ServeHTTP(w, r)
	})
}

// knownHost guards against DNS rebinding, which an IP address cannot suffer.
func (c *Console) knownHost(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	host = strings.Trim(strings.ToLower(host), "[]")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host == "localhost" || slices.Contains(c.o.Hosts, host)
}

func (c *Console) page(w http.ResponseWriter, r *http.Request) {
	a, ok := c.assets[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", a.etag)
	if r.Header.Get("If-None-Match") == a.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(a.body) // an error means that the browser has gone
}

func (c *Console) status(w http.ResponseWriter, _ *http.Request) {
	s := c.o.Status()
	if s.Components == nil {
		s.Components = []Component{}
	}
	reply(w, http.StatusOK, s)
}

// liveBody carries the server's time, so that the page does not depend on the browser's clock.
type liveBody struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Keys []Series  `json:"keys"`
}

// live answers with the last hour, or with what is younger than ?from=, so that a page that has the
// hour asks for the last minutes only.
func (c *Console) live(w http.ResponseWriter, r *http.Request) {
	to := c.o.Now().UTC()
	from := to.Add(-liveWindow).Truncate(time.Minute)
	if text := r.URL.Query().Get("from"); text != "" {
		asked, err := time.Parse(time.RFC3339, text)
		if err != nil {
			refuse(w, http.StatusBadRequest, "bad_request", "from is not a time like 2026-01-02T15:04:05Z")
			return
		}
		if asked.After(from) {
			from = asked.UTC()
		}
	}
	series, err := c.o.Telemetry.Live(r.Context(), from, to, maxKeys)
	if err != nil {
		c.fail(w, r, "reading spend and quality", err)
		return
	}
	if series == nil {
		series = []Series{}
	}
	reply(w, http.StatusOK, liveBody{from, to, series})
}

func (c *Console) incidents(w http.ResponseWriter, r *http.Request) {
	answerList(c, w, r, "listing the incidents", c.o.Work.Incidents)
}

func (c *Console) groups(w http.ResponseWriter, r *http.Request) {
	answerList(c, w, r, "listing the groups", c.o.Work.Groups)
}

func (c *Console) decisions(w http.ResponseWriter, r *http.Request) {
	answerList(c, w, r, "listing the decisions", c.o.Work.Decisions)
}

// answerList answers with a list, which is never null.
func answerList[T any](c *Console, w http.ResponseWriter, r *http.Request, doing string, read func(context.Context) ([]T, error)) {
	list, err := read(r.Context())
	if err != nil {
		c.fail(w, r, doing, err)
		return
	}
	if list == nil {
		list = []T{}
	}
	reply(w, http.StatusOK, list)
}

func (c *Console) decide(w http.ResponseWriter, r *http.Request) {
	var v Verdict
	if !take(w, r, &v) {
		return
	}
	v.Who, v.Reason = strings.TrimSpace(v.Who), strings.TrimSpace(v.Reason)
	if err := v.check(); err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	decision, err := c.o.Work.Decide(r.Context(), v)
	if err != nil {
		c.fail(w, r, "deciding "+v.ID, err)
		return
	}
	c.o.Logger.InfoContext(r.Context(), "a person decided", "decision", v.ID, "verdict", v.Verdict, "who", v.Who)
	reply(w, http.StatusOK, decision)
}

func (v Verdict) check() error {
	switch {
	case v.ID == "":
		return errors.New("id is missing: say which decision")
	case v.Verdict != "approve" && v.Verdict != "deny":
		return fmt.Errorf("verdict is %q; it is approve or deny", v.Verdict)
	case v.Verdict == "deny" && v.Reason == "":
		return errors.New("reason is missing: say why you deny it, others will read it")
	}
	return checkWords(v.Who, v.Reason)
}

// checkWords checks what a person signs.
func checkWords(who, reason string) error {
	switch {
	case who == "":
		return errors.New("who is missing: say who you are, others will read it")
	case len(who) > maxName || !utf8.ValidString(who):
		return fmt.Errorf("who is not a name of at most %d bytes", maxName)
	case len(reason) > maxText:
		return fmt.Errorf("reason is longer than %d bytes", maxText)
	}
	return nil
}

// take reads what a request wants changed, or refuses it.
func take(w http.ResponseWriter, r *http.Request, into any) bool {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "content_type", "send application/json")
		return false
	}
	if err := decode(w, r, into); err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", err.Error())
		return false
	}
	return true
}

func decode(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("the body is not the JSON object expected: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the body holds more than one JSON object")
	}
	return nil
}

// fail answers with what the error means to a person, and logs the errors that mean nothing to one.
func (c *Console) fail(w http.ResponseWriter, r *http.Request, doing string, err error) {
	switch {
	case r.Context().Err() != nil: // the browser has gone
	case errors.Is(err, ErrAway):
		refuse(w, http.StatusServiceUnavailable, "away", err.Error())
	case errors.Is(err, ErrNotFound):
		refuse(w, http.StatusNotFound, "not_found", err.Error())
	case errors.Is(err, ErrRefused):
		refuse(w, http.StatusConflict, "refused", err.Error())
	default:
		c.o.Logger.ErrorContext(r.Context(), doing, "error", err)
		refuse(w, http.StatusInternalServerError, "internal", doing+" failed; the log says why")
	}
}

// problem is the body of every refusal.
type problem struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	var p problem
	p.Error.Code, p.Error.Message = code, message
	reply(w, status, p)
}

func reply(w http.ResponseWriter, status int, body any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error means that the browser has gone
}
