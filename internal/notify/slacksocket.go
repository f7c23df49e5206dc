package notify

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"github.com/slack-go/slack"
	"github.com/slack-go/slack/socketmode"
)

const (
	// atOnce bounds the presses that are worked on together.
	atOnce = 16
	// again is how long to wait before connecting anew after the client gave up.
	again = 5 * time.Second
)

// Run takes what is pressed in Slack through Socket Mode, a connection that is opened from here, until ctx
// ends. It connects anew whenever the connection is lost, and gives up only where no trying again helps.
func (s *Slack) Run(ctx context.Context) error {
	if s.o.AppToken == "" {
		return &slackError{doing: "Socket Mode", err: errors.New("there is no app-level token"), mend: "make one with the scope connections:write on the page Basic Information of the app", final: true}
	}
	for ctx.Err() == nil {
		err := s.connect(ctx)
		if saidError(err, "invalid_auth", "not_authed", "account_inactive", "token_revoked", "not_allowed_token_type", "missing_scope") {
			return &slackError{doing: "Socket Mode", err: err, mend: "the app-level token (xapp-…) is not valid: make one with the scope connections:write, and switch Socket Mode on", final: true}
		}
		if ctx.Err() != nil {
			break
		}
		s.o.Log.Warn("Slack's Socket Mode is away; trying again", "error", err, "in", again)
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
	return nil
}

// connect takes envelopes until the client gives up or ctx ends.
func (s *Slack) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := socketmode.New(s.api, socketmode.OptionLog(log.New(io.Discard, "", 0)), socketmode.OptionReadLimit(maxPayload),
		socketmode.OptionDialer(&websocket.Dialer{Proxy: http.ProxyFromEnvironment, HandshakeTimeout: 20 * time.Second, WriteBufferSize: 32 << 10}))
	ended := make(chan error, 1)
	go func() { ended <- client.RunContext(ctx) }()
	slots := make(chan struct{}, atOnce)
	for {
		select {
		case err := <-ended:
			return err
		case event := <-client.Events:
			s.event(ctx, client, event, slots)
		}
	}
}

// event takes one event of the connection.
func (s *Slack) event(ctx context.Context, client *socketmode.Client, event socketmode.Event, slots chan struct{}) {
	switch event.Type {
	case socketmode.EventTypeConnected:
		s.o.Log.Info("Slack's Socket Mode is connected")
	case socketmode.EventTypeConnectionError:
		if failed, ok := event.Data.(*slack.ConnectionErrorEvent); ok {
			s.o.Log.Warn("Slack's Socket Mode could not be connected", "error", strings.TrimSpace(failed.Error()), "again_in", failed.Backoff)
		}
	case socketmode.EventTypeErrorBadMessage:
		if bad, ok := event.Data.(*socketmode.ErrorBadMessage); ok {
			s.o.Log.Warn("Slack's Socket Mode sent what cannot be read", "error", bad.Cause)
		}
	case socketmode.EventTypeInteractive:
		callback, ok := event.Data.(slack.InteractionCallback)
		if !ok || event.Request == nil {
			return
		}
		envelope := event.Request.EnvelopeID
		p, err := pressOf(callback)
		if err != nil {
			s.o.Log.Warn("An interaction in Slack was passed over", "why", err)
			s.acknowledge(ctx, client, envelope, nil)
			return
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			s.acknowledge(ctx, client, envelope, s.handle(ctx, p))
		}()
	}
}

// acknowledge answers an envelope. An answer that is lost with its connection does no harm: the press has
// been kept, and the same press again counts once.
func (s *Slack) acknowledge(ctx context.Context, client *socketmode.Client, envelope string, a answer) {
	var payload any
	if a != nil {
		payload = a
	}
	if err := client.AckCtx(ctx, envelope, payload); err != nil && ctx.Err() == nil {
		s.o.Log.Warn("An envelope of Slack's could not be answered", "error", err)
	}
}
