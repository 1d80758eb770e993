export * from "../../host/simulator/random.ts";
