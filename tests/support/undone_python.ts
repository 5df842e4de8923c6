/** Walks up to the variables of Python's guard, where refusals are decided, as a program that means harm would. */
export const undonePython = `
import os, sys
frame = sys._getframe()
while "writable" not in frame.f_globals: frame = frame.f_back
guard = frame.f_globals
guard["writable"].append("/"); guard["readable"].append("/")
guard["inside"] = lambda path, folders: True
guard["networks"] = guard["processes"] = ("none",)
`;
