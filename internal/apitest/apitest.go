// Package apitest holds what a server is asked and what it answers in tests to docs/openapi.yaml, by a validator that
// others wrote.
package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/errors"
	"github.com/pb33f/libopenapi-validator/paths"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// maxBody is how much of a body is looked at, in bytes. Of a longer one, and of a stream of events, only what is said
// beside it is.
const maxBody = 1 << 20

// ours are the headers that must be described where they are answered, by how they begin.
var ours = []string{"X-Llm-", "X-Flyball-", "Ratelimit"}

// description is docs/openapi.yaml, and the two ways to hold an exchange to it: strictly, where the bodies are ours, and
// with fields that it does not know, where they are a provider's.
type description struct {
	mu         sync.Mutex // the library does not say that it may be used by two at once
	document   *v3.Document
	own, loose validator.Validator
}

var read = sync.OnceValues(func() (*description, error) {
	_, here, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(here), "..", "..", "docs", "openapi.yaml"))
	if err != nil {
		return nil, err
	}
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		return nil, err
	}
	model, err := document.BuildV3Model()
	if err != nil {
		return nil, err
	}
	// Doors are tested for themselves. Headers are looked at here, since a client sends what it likes beside ours.
	common := []config.Option{config.WithFormatAssertions(), config.WithoutSecurityValidation()}
	strict := append(slices.Clip(common), config.WithStrictMode(), config.WithStrictIgnorePaths(
		"$.headers.**", "$.cookies.**", "$.body.tags", "$.body[*].tags", "$.body.usage", "$.body[*].usage", "$.body.refusal.body", // of others
	))
	return &description{
		document: &model.Model, own: validator.NewValidatorFromV3Model(&model.Model, strict...),
		loose: validator.NewValidatorFromV3Model(&model.Model, common...),
	}, nil
})

// Hold returns the handler with a witness before it: the test fails when a path is not described, when an answer is not
// as its description says, or when a request is accepted that the description does not allow. Answers are not delayed.
func Hold(t testing.TB, next http.Handler) http.Handler {
	d, err := read()
	if err != nil {
		t.Fatalf("docs/openapi.yaml cannot be read: %v", err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, answered := &bytes.Buffer{}, &witness{ResponseWriter: w, status: http.StatusOK}
		asked := r.Clone(r.Context())
		if r.Body != nil {
			r.Body = &heard{ReadCloser: r.Body, to: sent}
		}
		defer func() { // a handler may end by a panic, and then there is no answer
			if p := recover(); p != nil {
				panic(p)
			}
			if after, ok := strings.CutPrefix(asked.URL.Path, "/v1/authz/"); ok { // no path of a description can hold slashes
				asked.URL.Path = "/v1/authz/" + strings.ReplaceAll(after, "/", "-")
			}
			for _, wrong := range d.check(asked, sent.Bytes(), answered) {
				t.Errorf("%s %s, answered %d: docs/openapi.yaml: %s\n%.2000s", r.Method, r.URL, answered.status, wrong, answered.body.String())
			}
		}()
		next.ServeHTTP(answered, r)
	})
}

// check says what is not as it is described.
func (d *description) check(r *http.Request, sent []byte, w *witness) (wrong []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	item, _, _ := paths.FindPath(r, d.document, nil)
	if item == nil {
		if w.status == http.StatusNotFound {
			return nil
		}
		return []string{"the path is not described"}
	}
	operation, ok := item.GetOperations().Get(strings.ToLower(r.Method))
	if !ok {
		if w.status == http.StatusMethodNotAllowed {
			return nil
		}
		return []string{"the method is not described"}
	}
	by := d.own
	if slices.Contains(operation.Tags, "passthrough") || strings.HasPrefix(r.URL.Path, "/v1/authz/") {
		by = d.loose
	}
	wrong = undescribed(operation, w)
	kind, _, _ := mime.ParseMediaType(w.header.Get("Content-Type"))
	if kind != "text/event-stream" && w.body.Len() < maxBody {
		answer := &http.Response{StatusCode: w.status, Header: w.header, Body: io.NopCloser(bytes.NewReader(w.body.Bytes())), Request: r}
		_, errs := by.ValidateHttpResponse(with(r, sent), answer)
		wrong = append(wrong, texts("the answer", errs)...)
	}
	refused := w.status >= 300 || bytes.Contains(w.body.Bytes(), []byte(`"refused":[{`)) // some records of many
	if !refused && len(sent) < maxBody && r.Header.Get("Content-Encoding") == "" {       // what is refused need not be as described
		_, errs := by.ValidateHttpRequestSync(with(r, sent))
		wrong = append(wrong, texts("the request", errs)...)
	}
	return wrong
}

// undescribed are the headers of ours that the answer has and its description has not.
func undescribed(operation *v3.Operation, w *witness) (wrong []string) {
	response, ok := operation.Responses.Codes.Get(strconv.Itoa(w.status))
	if !ok {
		response = operation.Responses.Default
	}
	if response == nil {
		return []string{"the status is not described"}
	}
	known := map[string]bool{}
	for name := range response.Headers.KeysFromOldest() {
		known[http.CanonicalHeaderKey(name)] = true
	}
	for name := range w.header {
		name = http.CanonicalHeaderKey(name)
		if !known[name] && slices.ContainsFunc(ours, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			wrong = append(wrong, "the header "+name+" is not described")
		}
	}
	return wrong
}

func with(r *http.Request, body []byte) *http.Request {
	copied := r.Clone(r.Context())
	copied.Body = io.NopCloser(bytes.NewReader(body))
	switch {
	case r.URL.Path == "/v1/settle/response": // a provider's, which need not be what it says
		copied.Header.Set("Content-Type", "application/octet-stream")
	case json.Valid(body) && copied.Header.Get("Content-Type") == "":
		copied.Header.Set("Content-Type", "application/json") // curl and others say nothing, and are understood
	}
	return copied
}

func texts(of string, errs []*errors.ValidationError) (list []string) {
	for _, err := range errs {
		text := fmt.Sprintf("%s: %s: %s", of, err.Message, err.Reason)
		for _, schema := range err.SchemaValidationErrors {
			text += fmt.Sprintf("\n\t%s: %s", schema.FieldPath, schema.Reason)
		}
		list = append(list, text)
	}
	return list
}

// heard keeps what is read of a body.
type heard struct {
	io.ReadCloser
	to *bytes.Buffer
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	h.to.Write(p[:min(n, maxBody-min(maxBody, h.to.Len()))])
	return n, err
}

// witness keeps what is answered, on its way.
type witness struct {
	http.ResponseWriter
	status int
	header http.Header // as it was when the answer began
	body   bytes.Buffer
}

// Unwrap lets the handler flush and set deadlines.
func (w *witness) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *witness) WriteHeader(status int) {
	if w.header == nil {
		w.status, w.header = status, w.Header().Clone()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *witness) Write(p []byte) (int, error) {
	if w.header == nil {
		w.WriteHeader(http.StatusOK)
	}
	if w.header.Get("Content-Type") == "" {
		w.header.Set("Content-Type", http.DetectContentType(p)) // as the server does
	}
	w.body.Write(p[:min(len(p), maxBody-min(maxBody, w.body.Len()))])
	return w.ResponseWriter.Write(p)
}
