package usage

import "time"

// Tuple is what a router knew of a call before it was made: features of its prompt, never the prompt. With the call's
// score it is what routers are trained from.
type Tuple struct {
	TraceID        string
	SpanID         string
	Timestamp      time.Time
	TenantID       string
	Task           string
	RequestedModel string
	Model          string // that served
	EstimatedCost  PicoUSD
	Reading        string  // names how the features were read
	Features       []byte  // in the form of package router
	Predictor      string  // the version that predicted the quality; empty: none did
	Predicted      float64 // 0..1
}
