package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const (
	// maxLag bounds how far one slow spool can hold the watermark back.
	maxLag = 30 * time.Second
	// spoolDead is how old a spool's last watermark must be for the spool to count as gone.
	spoolDead = 2 * time.Minute
)

var watermarksTable = table{"ingest_watermarks", []column{{"spool", "String"}, {"at", instant}}}

// Watermark records that everything the spool had accepted before at is in the tables.
func (s *Store) Watermark(ctx context.Context, spool string, at time.Time) error {
	if err := s.insert(ctx, watermarksTable, "", 1, func(int) []any { return []any{spool, at.UTC()} }); err != nil {
		return fmt.Errorf("recording the watermark of spool %s: %w", spool, err)
	}
	return nil
}

// ReadWatermark is the time up to which every live spool has delivered: the least of their watermarks,
// never after now and never more than 30 s before it, so that lag does not look like recovery and one
// slow spool blinds nobody. A spool silent for two minutes no longer counts; without spools it is now.
func (s *Store) ReadWatermark(ctx context.Context, now time.Time) (time.Time, error) {
	now = now.UTC()
	marks, err := collect(ctx, s,
		"SELECT max(`at`) AS latest FROM ingest_watermarks GROUP BY spool HAVING latest >= {alive:DateTime64(3, 'UTC')}",
		[]any{ch.Named("alive", millis(now.Add(-spoolDead)))},
		func(rows driver.Rows, at *time.Time) error { return rows.Scan(at) })
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the ingest watermark: %w", err)
	}
	watermark := now
	for _, at := range marks {
		if at.Before(watermark) {
			watermark = at
		}
	}
	if oldest := now.Add(-maxLag); watermark.Before(oldest) {
		watermark = oldest
	}
	return watermark.UTC(), nil
}
