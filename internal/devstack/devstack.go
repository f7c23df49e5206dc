// Package devstack runs what Flyball stands on, for people who have none of it: ClickHouse, Temporal and
// Redis, started, supervised and stopped by `flyball up` in one state folder. It hides processes, ports,
// passwords, logs, restarts and the one long build; what comes out is a Stack with addresses that the rest of
// Flyball uses exactly as it would use real servers.
//
// Three promises hold on every path, kill -9 of the process included: no child outlives it, no second one
// runs in the same folder, and a child that dies comes back on the same port.
package devstack

// The components that a Stack reports about.
const (
	ClickHouse = "clickhouse"
	Redis      = "redis"
	Temporal   = "temporal"
)

// Condition is what a component is doing.
type Condition string

// The conditions in the order in which a component meets them.
const (
	Building  Condition = "building"  // compiling; Progress says how far
	Starting  Condition = "starting"  // launched, not serving yet
	Ready     Condition = "ready"     // serving for the first time
	Died      Condition = "died"      // gone without being asked; it is started again
	Restarted Condition = "restarted" // serving again, on the same port
	Failed    Condition = "failed"    // never served and is given up
)

// Event is a change of one component.
type Event struct {
	Component string    `json:"component"`
	Condition Condition `json:"condition"`
	// Progress is the fraction of the build that is done, and zero in other conditions.
	Progress float64 `json:"progress,omitempty"`
	// Detail is for people: the package being compiled, the address, or why it died.
	Detail string `json:"detail,omitempty"`
	// PID is the process that became ready, and zero in other conditions and for what runs in this process.
	PID int `json:"pid,omitempty"`
}

// SetupError says what stands in the way of a start and how to mend it. Nothing is wrong with Flyball when
// it comes back, so commands exit with 2 on it.
type SetupError struct {
	Problem string
	Mend    string
	Err     error
}

func (e *SetupError) Error() string { return e.Problem + ": " + e.Mend }

// Unwrap returns the cause, if there is one beside the problem's own words.
func (e *SetupError) Unwrap() error { return e.Err }
