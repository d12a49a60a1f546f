"""One vector a document, fitted so that its product with a query's vector is near SumMaxSim."""
