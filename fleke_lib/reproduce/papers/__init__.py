"""What a run at the scale of a paper is made of; `fleke_lib.reproduce.paper` is its command."""
