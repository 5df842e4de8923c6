import type { Route } from "../../route.ts";
import { accountRoutes } from "./accounts.ts";
import { answerRoutes } from "./answers.ts";
import { conversationRoutes } from "./conversations.ts";

/** The routes that a server with an application has besides the others, and the other form of /api/chat. */
export const appRoutes: readonly Route[] = [...accountRoutes, ...conversationRoutes, ...answerRoutes];
