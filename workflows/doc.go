// Package workflows holds Flyball's durable processes as deterministic shells: the sweep that ticks,
// the alert loop of a key, its incident, the decisions within it, and a tenant's ledger of trust.
// What they decide is decided by pure packages (alert, runbook, routing) or by activities; what is
// left here is waiting, order and idempotence.
//
// Rules of the house:
//   - The state of a workflow is one struct of package contract. It is what the query answers and what
//     continue-as-new carries.
//   - Messages from people are updates, whose validators refuse before anything is recorded. Each has
//     a signal twin of the same name for callers that cannot wait for a worker; the twin runs the same
//     code, and what it is refused is logged.
//   - What must not be lost with a cancelled workflow (taking a flag off, recording the end) runs on a
//     disconnected context.
//   - A change of a workflow's course (another activity, timer, child or signal, or another order of
//     them) gets a numbered change id with workflow.GetVersion, commented with the reason, and a new
//     recorded history beside the old ones in testdata.
package workflows
