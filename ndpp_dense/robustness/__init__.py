"""How a network's answers bear shifts (`shift`), and perceptual distances on averages that do (`perceptual`)."""
