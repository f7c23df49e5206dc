package upstreamtest

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
)

type constantKey struct {
	path   string
	stream bool
}

// constant is an answer that is made once.
type constant struct {
	contentType string
	body        []byte
	spend       Spend
}

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// constant answers as fast as a server can: whatever is asked, the answer to the first such call again.
func (u *Upstream) constant(w http.ResponseWriter, r *http.Request) {
	body, _ := bodies.Get().(*bytes.Buffer)
	defer bodies.Put(body)
	body.Reset()
	if _, err := io.Copy(body, r.Body); err != nil {
		return
	}
	key := constantKey{r.URL.Path, bytes.Contains(body.Bytes(), []byte(`"stream":true`))}
	made, ok := u.constants.Load(key)
	if !ok {
		made, _ = u.constants.LoadOrStore(key, u.makeConstant(r, key, body.Bytes()))
	}
	c, _ := made.(*constant)
	w.Header().Set("Content-Type", c.contentType)
	if !key.stream {
		w.Header().Set("Content-Length", strconv.Itoa(len(c.body)))
	}
	u.calls.Add(1)
	u.input.Add(c.spend.Input)
	u.output.Add(c.spend.Output)
	_, _ = w.Write(c.body) // a client that is gone costs the same
}

func (u *Upstream) makeConstant(r *http.Request, key constantKey, body []byte) *constant {
	o := u.o
	o.Constant, o.Pace = false, 0
	if !key.stream {
		o.OutputTokens = 270 // about 2 KiB with all that is around them
	}
	once, recorder := New(o), httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodPost, key.path, bytes.NewReader(bytes.Clone(body)))
	request.Header = r.Header.Clone()
	once.ServeHTTP(recorder, request)
	return &constant{contentType: recorder.Header().Get("Content-Type"), body: recorder.Body.Bytes(), spend: once.Spend()}
}
