"""What training needs: quantizers with their gradients, observers, quantized layers, recipes."""
