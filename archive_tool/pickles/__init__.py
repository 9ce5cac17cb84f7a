"""What a pickle would import and holds, told without unpickling it."""
