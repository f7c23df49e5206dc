package routing

import "time"

// Shaping is what a shape lets through of a key's calls. The zero value is none.
type Shaping struct {
	Through float64 // share of the calls, drawn anew each minute
	Refused bool    // this session, or trace, is kept out
	Left    int     // seconds until it draws again; at least 1
}

// Shaping is the shape in force for the call's key. Where a stop is, that is what counts.
func (s *Snapshot) Shaping(r Request, now time.Time) Shaping {
	key := r.Key()
	flags, ok := s.byKey[key]
	if !ok || !flags.shape.Live(now) || flags.stop.Live(now) {
		return Shaping{}
	}
	f := flags.shape
	drawn, left := lot(f.Decision, r.unit(), now)
	return Shaping{Through: 1 - f.Share, Refused: Position(key, drawn, r.unit()) < f.Share, Left: left}
}
