package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// tolerance is how far a request's time may be from ours: Slack's own advice.
	tolerance = 5 * time.Minute
	// maxPayload bounds a request; a press carries the message that it was made on.
	maxPayload = 1 << 20
)

// Handler takes what is pressed in Slack over HTTP, for those who can not use Socket Mode. It is the app's
// request URL for interactivity. A request is believed when Slack's signature is on it, its time is near,
// and it has not been taken before.
func (s *Slack) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "POST only", http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
		if err != nil {
			http.Error(w, fmt.Sprintf("the request must be whole and at most %d bytes", maxPayload), http.StatusRequestEntityTooLarge)
			return
		}
		if err := s.verify(r.Header, body); err != nil {
			s.o.Log.Warn("A request that says it is Slack's was refused", "why", err, "from", r.RemoteAddr)
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			http.Error(w, "the body is not a form", http.StatusBadRequest)
			return
		}
		p, err := parsePress([]byte(form.Get("payload")))
		if err != nil {
			// Slack shows an error to the person for anything but a 200, and what is not ours is none.
			s.o.Log.Warn("An interaction in Slack was passed over", "why", err)
			w.WriteHeader(http.StatusOK)
			return
		}
		if said := s.handle(r.Context(), p); said != nil {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(said) // a client that is gone reads nothing
			return
		}
		w.WriteHeader(http.StatusOK)
	})
}

// verify refuses a request that is not Slack's, not of now, or taken already.
func (s *Slack) verify(header http.Header, body []byte) error {
	if s.o.SigningSecret == "" {
		return errors.New("no signing secret is configured, so that nothing can be believed: take it from the page Basic Information of the app")
	}
	stamp, signature := header.Get("X-Slack-Request-Timestamp"), header.Get("X-Slack-Signature")
	sec, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return errors.New("X-Slack-Request-Timestamp is not a time")
	}
	now := s.o.Now()
	if off := now.Sub(time.Unix(sec, 0)); off > tolerance || off < -tolerance {
		return fmt.Errorf("the request's time is more than %s from ours: is this machine's clock right?", tolerance)
	}
	if !hmac.Equal([]byte(signature), []byte(Signature(s.o.SigningSecret, stamp, body))) {
		return errors.New("X-Slack-Signature does not fit: is the signing secret this app's?")
	}
	if !s.verified.begin(stamp+" "+signature, now) {
		return errors.New("this request has been taken already")
	}
	return nil
}

// Signature is how Slack signs a request with the app's secret.
func Signature(secret, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "v0:%s:", timestamp)
	mac.Write(body)
	return "v0=" + hex.EncodeToString(mac.Sum(nil))
}
