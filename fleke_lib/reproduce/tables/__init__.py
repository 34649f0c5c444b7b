"""The tables of hundreds of facts: methods side by side, each with its harm, and what they cost."""
