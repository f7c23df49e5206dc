package budget

import "time"

// pessimistic is the share of a ceiling, in percent, up to which blocks are given out. In what is left every call is
// asked for by itself, and counters are set right by the ledger as fast as it tells.
const pessimistic = 95

// Block is how much of a ceiling a gateway may take in advance when committed (spent and held) of it is gone: a part
// of what is left below 95 %, so that blocks shrink as the ceiling comes near and a gateway that dies ties up little,
// but never less than is needed now. 0 says that there is none to take: the call has to be asked for by itself.
func Block(ceiling, committed, need Micro) Micro {
	const parts = 32 // a gateway's block is at most this part of what is left
	limit := ceiling/100*pessimistic + ceiling%100*pessimistic/100
	left := limit - committed
	if need > left {
		return 0
	}
	return max(need, left/parts)
}

// Lease is a block that this gateway holds: what of it is neither settled nor promised to a call under way may be
// promised. It is not safe for concurrent use.
type Lease struct {
	ID      string
	Left    Micro // neither promised nor spent
	Open    Micro // promised to calls under way
	Expires time.Time
}

// Take promises the amount to a call, unless the lease has lapsed or has too little left.
func (l *Lease) Take(amount Micro, now time.Time) bool {
	if amount < 0 || amount > l.Left || !now.Before(l.Expires) {
		return false
	}
	l.Left -= amount
	l.Open += amount
	return true
}

// Settle ends a promise: what the call did not cost can be promised again. A call that cost more than it was
// promised takes the rest from what is left, and what exceeds that too is returned: an overshoot.
func (l *Lease) Settle(promised, cost Micro) (over Micro) {
	l.Open -= promised
	l.Left += promised - cost
	if l.Left < 0 {
		over, l.Left = -l.Left, 0
	}
	return over
}

// Held is what the shared counter must go on holding for the lease.
func (l *Lease) Held() Micro { return l.Left + l.Open }
