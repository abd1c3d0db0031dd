"""Traffic lights in SUMO: each junction with lights is an agent, linked by roads with others."""
