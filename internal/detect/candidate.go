package detect

// Candidate reports whether the facts could make any rule say more than NONE, so that the policy is
// asked for these alone. It is looser than every condition of the shipped alert.yaml; a test of
// internal/policy proves it so.
func Candidate(f Facts) bool {
	return f.Active == string(Page) || f.Active == string(Investigate) ||
		f.CostRatio > 1.15 || f.CostZ > 1.9 || f.QualityRatio < 0.93 || f.SpendRatio > 2 ||
		f.CallsKnown && f.SilentMinutes >= 15 ||
		f.VelocityKnown && f.VelocityRatio < 0.7 ||
		f.CompletionKnown && (f.CompletionChange > 1.3 || f.CompletionChange < 0.75) ||
		f.CacheKnown && f.CacheHit < 0.35 && f.CacheBaseline > 0.25 ||
		f.OutcomeKnown && f.OutcomeRate < 0.8*f.OutcomeBaseline
}
