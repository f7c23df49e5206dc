package config

import (
	"fmt"
	"time"

	"github.com/flyball-dev/flyball/internal/router"
)

// Router is how the quality of answers is predicted.
type Router struct {
	Embeddings Embeddings `yaml:"embeddings"`
}

// Embeddings is an endpoint that speaks OpenAI's API of embeddings, and reads prompts in place of hashed n-grams. Without
// a url there is none.
type Embeddings struct {
	URL          string        `yaml:"url"` // up to and with the version: https://api.openai.com/v1
	Model        string        `yaml:"model"`
	Dimensions   int           `yaml:"dimensions"`    // asked for; left out: as many as the model makes by itself
	KeyEnv       string        `yaml:"key_env"`       // the environment variable with its key
	KeyFile      string        `yaml:"key_file"`      // or the file, read for each request
	Timeout      time.Duration `yaml:"timeout"`       // that a call over its ceiling waits at the most
	AllowPrivate bool          `yaml:"allow_private"` // it may have an address of a private network, and no TLS
}

var defaultRouter = Router{Embeddings{Timeout: 150 * time.Millisecond}}

// Reading names the endpoint's vectors; the zero value where there is none.
func (e Embeddings) Reading() router.Embedding {
	if e.URL == "" {
		return router.Embedding{}
	}
	return router.Embedding{Model: e.Model, Dimensions: e.Dimensions}
}

// Key is the endpoint's key; empty where it needs none. Its errors do not hold it.
func (e Embeddings) Key(lookup func(string) (string, bool)) (string, error) {
	key, err := readKey(e.KeyEnv, e.KeyFile, lookup)
	if err != nil {
		return "", fmt.Errorf("router.embeddings: %w", err)
	}
	return key, nil
}

// maxEmbeddingModel bounds the name of a model: it is a part of the name of the features.
const maxEmbeddingModel = 200

func (r Router) problems() []error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("router.embeddings."+format, args...))
		}
	}
	e := r.Embeddings
	if e.URL == "" {
		check(e.Model == "" && e.Dimensions == 0 && e.KeyEnv == "" && e.KeyFile == "", "url: name the endpoint, such as https://api.openai.com/v1")
		return errs
	}
	for _, err := range endpointProblems(e.URL, e.AllowPrivate) {
		check(false, "url: %w", err)
	}
	check(plainName(e.Model) && len(e.Model) <= maxEmbeddingModel, "model: name the model, such as text-embedding-3-small, in at most %d bytes", maxEmbeddingModel)
	check(e.Dimensions >= 0 && e.Dimensions <= router.MaxDimensions, "dimensions: must be from 1 to %d, or left out", router.MaxDimensions)
	check(e.KeyEnv == "" || e.KeyFile == "", "key_env: give it or key_file, not both")
	check(e.Timeout >= time.Millisecond && e.Timeout <= 5*time.Second, "timeout: must be from 1ms to 5s: calls wait for it")
	return errs
}
