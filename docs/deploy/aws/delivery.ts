import { Stack } from "aws-cdk-lib";
import * as codebuild from "aws-cdk-lib/aws-codebuild";
import * as codepipeline from "aws-cdk-lib/aws-codepipeline";
import * as actions from "aws-cdk-lib/aws-codepipeline-actions";
import type * as ecr from "aws-cdk-lib/aws-ecr";
import type * as ecs from "aws-cdk-lib/aws-ecs";
import * as iam from "aws-cdk-lib/aws-iam";
import * as s3 from "aws-cdk-lib/aws-s3";
import { Construct } from "constructs";

export interface DeliveryProps {
  readonly connectionArn: string;
  readonly repository: string;
  readonly images: ecr.Repository;
  readonly services: readonly ecs.Ec2Service[];
}

/** What is pushed to main is tested, made an image and put in the place of what runs. */
export class Delivery extends Construct {
  constructor(scope: Construct, id: string, { connectionArn, repository, images, services }: DeliveryProps) {
    super(scope, id);
    const sources = new codepipeline.Artifact();
    const built = new codepipeline.Artifact();
    const build = this.#build(images);
    images.grantPullPush(build);
    const [owner, repo] = repository.split("/");
    const source = new actions.CodeStarConnectionsSourceAction({
      ...{ actionName: "main", connectionArn, owner: owner!, repo: repo!, branch: "main", output: sources },
    });
    const artifactBucket = new s3.Bucket(this, "Artifacts", {
      blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
      encryption: s3.BucketEncryption.S3_MANAGED,
      enforceSSL: true,
    });
    const role = new iam.Role(this, "Role", {
      assumedBy: new iam.ServicePrincipal("codepipeline.amazonaws.com"),
    });
    new codepipeline.Pipeline(this, "Pipeline", {
      pipelineType: codepipeline.PipelineType.V2,
      artifactBucket,
      role,
      stages: [
        { stageName: "Source", actions: [source] },
        {
          stageName: "Build",
          actions: [
            new actions.CodeBuildAction({
              ...{ actionName: "test-and-build", project: build, input: sources, outputs: [built] },
            }),
          ],
        },
        {
          stageName: "Deploy",
          actions: services.map(
            (service) =>
              new actions.EcsDeployAction({
                ...{ actionName: service.node.id.toLowerCase(), service, input: built },
                role: this.#deployer(service, artifactBucket, role),
              }),
          ),
        },
      ],
    });
  }

  /** May give one service another image. CDK's own role for that may do so with every service of the account. */
  #deployer(service: ecs.Ec2Service, artifacts: s3.Bucket, pipeline: iam.Role): iam.IRole {
    const role = new iam.Role(this, `${service.node.id}Deployer`, {
      assumedBy: new iam.ArnPrincipal(pipeline.roleArn),
    });
    const allow = (list: string[], resources: string[]) =>
      role.addToPolicy(new iam.PolicyStatement({ actions: list, resources }));
    const { taskRole, executionRole, family } = service.taskDefinition;
    const tasks = Stack.of(this).formatArn({
      ...{ service: "ecs", resource: "task-definition", resourceName: `${family}:*` },
    });
    allow(["ecs:UpdateService", "ecs:DescribeServices"], [service.serviceArn]);
    allow(["ecs:RegisterTaskDefinition", "ecs:DescribeTaskDefinition"], ["*"]);
    allow(["ecs:TagResource"], [tasks]);
    allow(["iam:PassRole"], [taskRole.roleArn, executionRole!.roleArn]);
    artifacts.grantRead(role);
    return role.withoutPolicyUpdates();
  }

  /** Runs what checks every change, then builds the image with the commit as its tag. */
  #build(images: ecr.Repository): codebuild.PipelineProject {
    const { region } = Stack.of(this);
    return new codebuild.PipelineProject(this, "Build", {
      environment: {
        buildImage: codebuild.LinuxBuildImage.STANDARD_7_0,
        computeType: codebuild.ComputeType.LARGE,
        // Images are built in it.
        privileged: true,
        environmentVariables: { REPOSITORY: { value: images.repositoryUri } },
      },
      buildSpec: codebuild.BuildSpec.fromObject({
        version: "0.2",
        phases: {
          install: {
            "runtime-versions": { nodejs: 20 },
            commands: [
              "apt-get update && apt-get install -y --no-install-recommends libvulkan1 mesa-vulkan-drivers",
              `aws ecr get-login-password --region ${region} | docker login --username AWS --password-stdin "\${REPOSITORY%%/*}"`,
            ],
          },
          build: {
            commands: [
              ".ci/run",
              "docker build -f docs/deploy/Dockerfile -t kiln:0.1.0 .",
              'IMAGE="$REPOSITORY:$CODEBUILD_RESOLVED_SOURCE_VERSION"',
              'docker build -t "$IMAGE" docs/deploy/aws',
              'docker push "$IMAGE"',
              `printf '[{"name":"kiln","imageUri":"%s"}]' "$IMAGE" > imagedefinitions.json`,
            ],
          },
        },
        artifacts: { files: ["imagedefinitions.json"] },
      }),
    });
  }
}
