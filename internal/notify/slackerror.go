package notify

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/slack-go/slack"
)

// slackError is why Slack did not take something, with the mend where a person can mend it. The router
// reads from it when, and whether, trying again is of use.
type slackError struct {
	doing string
	err   error
	mend  string        // empty: time mends it
	after time.Duration // how long Slack asks to be left alone
	final bool
}

func (e *slackError) Error() string {
	text := fmt.Sprintf("Slack: %s: %v", e.doing, e.err)
	if e.mend != "" {
		text += ": " + e.mend
	}
	return text
}

func (e *slackError) Unwrap() error { return e.err }

// RetryAfter is how long to wait before the next try; 0 where Slack does not say.
func (e *slackError) RetryAfter() time.Duration { return e.after }

// Retryable reports whether trying again can help, with nothing mended by a person.
func (e *slackError) Retryable() bool { return !e.final }

// mends say what a person does about Slack's word for an error that no trying again mends.
var mends = map[string]string{
	"invalid_auth":            "the bot token is not valid: copy it anew from OAuth & Permissions of the app",
	"not_authed":              "no bot token was sent: configure it",
	"account_inactive":        "the app's account was deactivated: install the app again",
	"token_revoked":           "the bot token was revoked: install the app again and configure the new token",
	"token_expired":           "the bot token has expired: switch token rotation off for the app, or configure a new token",
	"channel_not_found":       "there is no such channel, or the app is not in that private one: configure the channel's id (C…) and invite the app with /invite",
	"not_in_channel":          "the app is not in the channel: invite it with /invite",
	"is_archived":             "the channel is archived: configure another one",
	"missing_scope":           "the app lacks a scope: bring it up to date with the output of flyball slack manifest and install it again",
	"no_permission":           "the app lacks a scope: bring it up to date with the output of flyball slack manifest and install it again",
	"restricted_action":       "the workspace lets the app not post there: ask its administrator",
	"not_allowed_token_type":  "this is not a bot token (xoxb-…): configure that one",
	"team_access_not_granted": "the app is not installed in this workspace: install it",
	"edit_window_closed":      "the workspace forbids editing old messages: ask its administrator to lift that for apps",
	"cant_update_message":     "the message was not posted by this app: was the token changed to that of another one?",
	"invalid_blocks":          "Slack does not take the message's blocks; please report this as a bug",
	"invalid_blocks_format":   "Slack does not take the message's blocks; please report this as a bug",
	"msg_too_long":            "the message is too long for Slack; please report this as a bug",
	"metadata_too_large":      "the message's metadata is too long for Slack; please report this as a bug",
}

// explained gives an error of the client library its place and its mend.
func explained(doing string, err error) error {
	if err == nil {
		return nil
	}
	var already *slackError
	if errors.As(err, &already) {
		return err
	}
	e := &slackError{doing: doing, err: err}
	var limited *slack.RateLimitedError
	var said slack.SlackErrorResponse
	var status slack.StatusCodeError
	switch {
	case errors.As(err, &limited):
		e.after = max(limited.RetryAfter, time.Second)
	case errors.As(err, &said):
		if e.mend = mends[said.Err]; e.mend != "" {
			e.final = true
		}
		if said.Err == "ratelimited" || said.Err == "rate_limited" {
			e.after = time.Minute
		}
		if said.Needed != "" {
			e.mend += " (needed: " + said.Needed + ")"
		}
	case errors.As(err, &status):
		// A redirect or a refusal by status comes from something between us and Slack.
		e.final = status.Code < http.StatusInternalServerError && status.Code != http.StatusTooManyRequests && status.Code != http.StatusRequestTimeout
		if e.final {
			e.mend = "this is not how Slack answers: is the API's address right, and does a proxy stand between?"
		}
	}
	return e
}

// saidError reports whether Slack refused with one of the words given.
func saidError(err error, names ...string) bool {
	var said slack.SlackErrorResponse
	if !errors.As(err, &said) {
		return false
	}
	for _, name := range names {
		if said.Err == name {
			return true
		}
	}
	return false
}
