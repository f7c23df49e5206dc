package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/router"
)

// reading says how prompts are read: by the embeddings of the deployment, or, where they are not needed and no
// configuration is named, by n-grams.
func (o *stored) reading(needed bool) (config.Embeddings, error) {
	if o.config == "" && !needed {
		return config.Embeddings{}, nil
	}
	c, err := o.configuration()
	return c.Router.Embeddings, err
}

// promptReader reads the prompts of a file.
type promptReader struct {
	embeddings config.Embeddings
	extract    router.Extractor
}

// evaluated reads the prompts that are to be evaluated: as the configuration in the file says, or by n-grams.
func evaluated(ctx context.Context, file string, rows []router.Row) (func(prompt string) router.Features, error) {
	o := stored{config: file}
	reads, err := o.reading(false)
	if err != nil {
		return nil, err
	}
	return promptReader{reads, reads.Reading().Extractor("")}.features(ctx, rows)
}

// features are those of the rows' prompts. An endpoint is asked for all of them at once, for each but once.
func (p promptReader) features(ctx context.Context, rows []router.Row) (func(prompt string) router.Features, error) {
	if !p.extract.Embeds() {
		return p.extract.Features, nil
	}
	embedder, err := gateway.NewEmbedder(p.embeddings, os.LookupEnv, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	var prompts []string
	at := map[string]int{}
	for _, r := range rows {
		if _, ok := at[r.Prompt]; !ok {
			at[r.Prompt] = len(prompts)
			prompts = append(prompts, r.Prompt)
		}
	}
	vectors, err := embedder.Vectors(ctx, prompts)
	if err != nil { // without one of them the figures would be of other prompts
		return nil, &exitError{exitAway, fmt.Errorf("reading the prompts: %w", err)}
	}
	return func(prompt string) router.Features { return p.extract.Embedded(prompt, vectors[at[prompt]]) }, nil
}
