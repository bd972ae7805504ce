"""What every door calls: orders in and out, who may do what. No transport in it."""
