package main

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/flyball-dev/flyball/internal/config"
)

// certLook is how long a certificate is used before its files are looked at again.
const certLook = 10 * time.Second

// certificate is the front's, read again when its files change: what renews certificates restarts nothing. A bad pair
// changes nothing, since the key may be written after the certificate.
type certificate struct {
	files config.TLS
	log   *slog.Logger
	now   func() time.Time

	mu       sync.Mutex
	pair     *tls.Certificate
	modified [2]time.Time
	looked   time.Time
}

func newCertificate(files config.TLS, log *slog.Logger, now func() time.Time) (*certificate, error) {
	c := &certificate{files: files, log: log, now: now, looked: now()}
	c.modified = c.stat()
	return c, c.read()
}

func (c *certificate) read() error {
	pair, err := tls.LoadX509KeyPair(c.files.CertFile, c.files.KeyFile)
	if err == nil {
		c.pair = &pair
	}
	return err
}

// stat is when the files were written; the zero time of one that cannot be seen.
func (c *certificate) stat() (at [2]time.Time) {
	for i, file := range [...]string{c.files.CertFile, c.files.KeyFile} {
		if info, err := os.Stat(file); err == nil {
			at[i] = info.ModTime()
		}
	}
	return at
}

// get is the certificate for a handshake.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if now.Sub(c.looked) < certLook {
		return c.pair, nil
	}
	c.looked = now
	modified := c.stat()
	if modified == c.modified {
		return c.pair, nil
	}
	if err := c.read(); err != nil {
		c.log.Error("The certificate stays as it was; its files are read again until they fit", "file", c.files.CertFile, "error", err)
		return c.pair, nil
	}
	c.modified = modified
	c.log.Info("Read the certificate again", "file", c.files.CertFile)
	return c.pair, nil
}
