import { z } from "zod";

/** Kinds of numbers that settings are. */
export const count = z.int().min(1);
export const natural = z.int().min(0);
export const share = z.number().min(0).lt(1);
export const positive = z.number().positive();
