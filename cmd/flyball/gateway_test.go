package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/config"
)

// certificateFiles are those of a new certificate for this machine.
func certificateFiles(t *testing.T) (config.TLS, *x509.CertPool) {
	files := config.TLS{CertFile: filepath.Join(t.TempDir(), "cert"), KeyFile: filepath.Join(t.TempDir(), "key")}
	return files, renew(t, files)
}

// renew writes a new certificate with its key.
func renew(t *testing.T, files config.TLS) *x509.CertPool {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	require.NoError(t, os.WriteFile(files.CertFile, text, 0o600))
	require.NoError(t, os.WriteFile(files.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(text))
	return pool
}

// A renewed certificate is used without a restart, once its key is there too.
func TestTheCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	files, _ := certificateFiles(t)
	now := time.Now()
	c, err := newCertificate(files, slog.New(slog.DiscardHandler), func() time.Time { return now })
	require.NoError(t, err)
	serial := func() string {
		pair, err := c.get(nil)
		require.NoError(t, err)
		return string(pair.Certificate[0])
	}
	first := serial()
	renew(t, files)
	require.NoError(t, os.Chtimes(files.CertFile, now.Add(time.Minute), now.Add(time.Minute))) // clocks of files may be coarse
	key, err := os.ReadFile(files.KeyFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files.KeyFile, key[:20], 0o600))
	now = now.Add(certLook)
	require.Equal(t, first, serial(), "half of a pair changes nothing")
	require.NoError(t, os.WriteFile(files.KeyFile, key, 0o600))
	require.Equal(t, first, serial(), "the files are not looked at for each handshake")
	now = now.Add(certLook)
	require.NotEqual(t, first, serial())
	second := serial()
	require.NoError(t, os.Remove(files.CertFile))
	now = now.Add(certLook)
	require.Equal(t, second, serial())
	files.KeyFile = files.CertFile
	_, err = newCertificate(files, slog.New(slog.DiscardHandler), time.Now)
	require.Error(t, err)
}

// The front speaks HTTP/1.1 and HTTP/2, with TLS and without, and takes no more of headers than is configured.
func TestFrontSpeaksHTTP(t *testing.T) {
	t.Parallel()
	files, pool := certificateFiles(t)
	for name, encrypted := range map[string]bool{"http": false, "https": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config.Default()
			c.Gateway.MaxHeader = 8 << 10
			if encrypted {
				c.Gateway.TLS = files
			}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			ctx, stop := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })
			go func() { ended <- (&system{config: c}).serveFront(ctx, listener, echo, true) }()
			defer func() {
				stop()
				require.NoError(t, <-ended)
			}()
			for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
				transport := &http.Transport{Protocols: &http.Protocols{}, TLSClientConfig: &tls.Config{RootCAs: pool}}
				transport.Protocols.SetHTTP1(proto == "HTTP/1.1")
				transport.Protocols.SetHTTP2(proto == "HTTP/2.0")
				transport.Protocols.SetUnencryptedHTTP2(proto == "HTTP/2.0")
				get := func(header string) (*http.Response, error) {
					r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, name+"://"+listener.Addr().String(), nil)
					require.NoError(t, err)
					r.Header.Set("X-Long", header)
					return transport.RoundTrip(r)
				}
				got, err := get("x")
				require.NoError(t, err, proto)
				said, err := io.ReadAll(got.Body)
				require.NoError(t, err)
				require.NoError(t, got.Body.Close())
				require.Equal(t, proto, string(said))
				if got, err = get(strings.Repeat("x", 64<<10)); err == nil {
					require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, got.StatusCode, proto)
					require.NoError(t, got.Body.Close())
				}
				transport.CloseIdleConnections()
			}
		})
	}
}

// Who dribbles headers is left after a while, and keeps nobody else waiting.
func TestSlowHeadersAreLeft(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	go func() { ended <- (&system{config: config.Default()}).serveFront(ctx, listener, hello, false) }()
	defer func() {
		stop()
		require.NoError(t, <-ended)
	}()
	var slow []net.Conn
	for range 50 {
		conn, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		require.NoError(t, err)
		slow = append(slow, conn)
	}
	got, err := http.Get("http://" + listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, got.Body.Close())
	require.Equal(t, http.StatusOK, got.StatusCode)
	for _, conn := range slow {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err := io.Copy(io.Discard, conn)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "a connection without headers is kept")
	}
}
