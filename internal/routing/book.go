package routing

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Book is what the owner of a key's flags knows of them. It hands out the sequence numbers of the writes, in the order
// in which they are to be made, and says which orders are to be obeyed: so one flag has one decision, a decision that
// has taken its flag off cannot bring it back, and what comes twice or late changes nothing. It survives restarts as
// JSON.
type Book struct {
	Sequence Sequence `json:"sequence"` // of the last write of a flag
	Flags    []Flag   `json:"flags"`
	Done     []string `json:"done,omitempty"` // the last decisions that took their flag off
}

// Order asks for a share of a flag; a share of 0 takes it off.
type Order struct {
	Kind      Kind
	Value     string
	Share     float64
	Reason    string
	Decision  string
	ExpiresAt time.Time
}

// doneKept is how many decisions that have taken their flag off are remembered, to refuse their late orders. An
// incident makes few, and each ends before its incident does.
const doneKept = 32

// ErrOrder says that an order is wrong by itself, whatever the flags are.
var ErrOrder = errors.New("the order is wrong")

// Check refuses orders that the key's flags do not allow; one that is wrong by itself with ErrOrder.
func (b *Book) Check(key usage.Key, o Order) error {
	if err := o.check(key); err != nil {
		return err
	}
	if o.Share > 0 && slices.Contains(b.Done, o.Decision) {
		return fmt.Errorf("%s has taken its flag off already: an order that comes after its own end is not obeyed", o.Decision)
	}
	if f := b.Flag(o.Kind); f != nil && f.Decision != o.Decision && o.Share > 0 {
		return fmt.Errorf("the %s flag of %s belongs to %s; let that end first", o.Kind, key, f.Decision)
	}
	return nil
}

func (o Order) check(key usage.Key) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrOrder, fmt.Sprintf(format, args...))
	}
	switch o.Kind {
	case Route, Pin:
		if o.Value == "" && o.Share > 0 {
			return wrong("a %s flag needs the model to send calls to (value)", o.Kind)
		}
	case Stop, Shape, Sampling:
	default:
		return wrong("unknown kind of flag %q: want route, pin, stop, shape or sampling", o.Kind)
	}
	switch {
	case !key.OwnsFlags():
		return wrong("%s owns no flags: set the flag on the one model whose calls it is to move", key)
	case !(o.Share >= 0 && o.Share <= 1):
		return wrong("the share %v is not between 0 and 1", o.Share)
	case o.Decision == "":
		return wrong("a flag needs the decision that it belongs to")
	}
	return nil
}

// Flag is the key's flag of the kind, or nil.
func (b *Book) Flag(k Kind) *Flag {
	i := slices.IndexFunc(b.Flags, func(f Flag) bool { return f.Kind == k })
	if i < 0 {
		return nil
	}
	return &b.Flags[i]
}

// Take turns an order that Check allows into the flag to write, under the next sequence number: one whose share is 0 is
// to be released. Write is false when there is nothing to do, and the flag is then the one that stands: it is so
// already, or it is another decision's, which this one has no business to take off. A flag that the book does not know
// is released all the same: an earlier owner may have been killed over it.
func (b *Book) Take(key usage.Key, o Order, now time.Time) (flag Flag, write bool) {
	if have := b.Flag(o.Kind); have != nil {
		same := have.Decision == o.Decision && have.Share == o.Share && have.Value == o.Value
		others := have.Decision != o.Decision
		if same || others {
			return *have, false
		}
	}
	b.Sequence.N++
	return Flag{
		Key: key, Kind: o.Kind, Value: o.Value, Share: o.Share, Reason: o.Reason, Decision: o.Decision,
		Sequence: b.Sequence, RenewedAt: now, ExpiresAt: o.ExpiresAt,
	}, true
}

// Written takes note that a flag that Take handed out has been written.
func (b *Book) Written(f Flag) {
	if f.Share == 0 {
		if !slices.Contains(b.Done, f.Decision) {
			b.Done = append(b.Done, f.Decision)
			b.Done = b.Done[max(0, len(b.Done)-doneKept):]
		}
		b.Flags = slices.DeleteFunc(b.Flags, func(have Flag) bool { return have.Kind == f.Kind })
		return
	}
	if have := b.Flag(f.Kind); have != nil {
		*have = f
		return
	}
	b.Flags = append(b.Flags, f)
}

// Moving is how many of the flags touch where calls go: sampling touches only what is scored.
func (b *Book) Moving() (n int) {
	for _, f := range b.Flags {
		if f.Kind != Sampling {
			n++
		}
	}
	return n
}
