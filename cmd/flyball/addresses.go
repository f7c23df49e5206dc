package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
)

// addressesFile is where `flyball up` writes the addresses it serves on.
const addressesFile = ".flyball/addresses.json"

// ingestDefault is where `flyball up` serves ingest when its port is free, for commands that are run
// in another folder.
const ingestDefault = "http://127.0.0.1:8080"

// serviceURL is the address of a service of the running Flyball: what the --url flag says, else what
// addresses.json in this folder says under key, else fallback.
func serviceURL(flag, key, fallback string) (string, error) {
	if flag == "" {
		text, err := os.ReadFile(addressesFile)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fallback, nil
		case err != nil:
			return "", &exitError{exitUsage, fmt.Errorf("reading the addresses of the running Flyball: %w", err)}
		}
		var addresses map[string]json.RawMessage
		if err = json.Unmarshal(text, &addresses); err == nil {
			err = json.Unmarshal(addresses[key], &flag)
		}
		if err != nil || flag == "" {
			return "", &exitError{exitUsage, fmt.Errorf("%s has no address for %q: pass --url", addressesFile, key)}
		}
	}
	if u, err := url.Parse(flag); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", &exitError{exitUsage, fmt.Errorf("%q is not an address like %s", flag, ingestDefault)}
	}
	return flag, nil
}
