"""What vectors give away: attacks on packets, edits and sums, and defences that do not hold."""
