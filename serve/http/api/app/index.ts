import type { Route } from "../../route.ts";
import { accountRoutes } from "./accounts.ts";
import { answerRoutes } from "./answers.ts";
import { conversationRoutes } from "./conversations.ts";
import { dataRoutes } from "./data.ts";
import { documentRoutes } from "./documents.ts";
import { jobRoutes } from "./jobs.ts";
import { noticeRoutes } from "./notices.ts";
import { pageRoutes } from "./page.ts";
import { registryRoutes } from "./registry.ts";
import { reportRoutes } from "./reports.ts";
import { userRoutes } from "./users.ts";

/** The routes that a server with an application has besides the others. */
export const appRoutes: readonly Route[] = [
  ...[...pageRoutes, ...accountRoutes, ...userRoutes],
  ...[...conversationRoutes, ...answerRoutes],
  ...[...reportRoutes, ...documentRoutes, ...jobRoutes],
  ...[...dataRoutes, ...registryRoutes, ...noticeRoutes],
];
